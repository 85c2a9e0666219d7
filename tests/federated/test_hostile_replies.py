"""Whatever clients send: the round goes on, who sent it is named, and the others are aggregated as without it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tests.conftest import full_state, tiny_learner
from tests.federated.hostile import SIDES, UPDATES, WEIGHTS, D, Raises, spoiled

from taster import Action
from taster.federated import AGGREGATORS, ClientReply, Server

HONEST, HOSTILE = 12, 10
STATISTICS = torch.tensor([0.5] * 4 + [0.2] * 4 + [36.0])
BUFFERS = torch.tensor([0.1] * 4 + [0.9] * 4)


def honest(name: str, draw: torch.Generator, side: str | None) -> ClientReply:
    own: dict[str, Any] = {}
    if side == "statistics":
        own[side] = STATISTICS + torch.cat([torch.rand(8, generator=draw), torch.zeros(1)])
    elif side == "buffers":
        own[side] = BUFFERS + torch.rand(8, generator=draw)
    return ClientReply(name, torch.randn(D, generator=draw), float(torch.rand(1, generator=draw)) + 1, **own)


def compared(attacked: Server, alone: Server) -> None:
    a, b = full_state(attacked.learner)["model"], full_state(alone.learner)["model"]
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)
        assert bool(a[name].isfinite().all())


@pytest.mark.parametrize("side", [None, "statistics", "buffers"])
@pytest.mark.parametrize("rule", ["mean", "coordinate_median", "multi_krum"])
def test_a_thousand_hostile_replies_change_nothing_and_are_named(rule: str, side: Any, thorough: bool) -> None:
    draw, numbers = random.Random(f"{rule} {side}"), torch.Generator().manual_seed(0)
    attacked, alone = Server(tiny_learner(), AGGREGATORS[rule]()), Server(tiny_learner(), AGGREGATORS[rule]())
    hostile = 0
    while hostile < (10_000 if thorough else 1000) / 9:
        names = [f"client {i}" for i in range(HONEST + HOSTILE)]
        draw.shuffle(names)
        bad, good = set(names[:HOSTILE]), [name for name in names if name not in names[:HOSTILE]]
        invited = sorted(names)
        sent = {name: honest(name, numbers, side) for name in invited}
        replies: list[Any] = [sent[name] for name in good]
        for name in sorted(bad):
            replies += spoiled(draw, name, sent[name], side)
        draw.shuffle(replies)
        outcome = attacked.receive(replies, invited, side_data=side)
        named = {name for name in outcome.rejected_clients if name in names}
        assert named == bad, outcome.rejected_clients
        assert all(name.startswith(("stranger", "reply")) for name in outcome.rejected_clients.keys() - named)
        assert outcome.record.verdict.committed
        assert (outcome.record.samples, outcome.record.dropped) == (HONEST + HOSTILE, HOSTILE)
        alone.receive([sent[name] for name in invited if name in good], sorted(good), side_data=side)
        compared(attacked, alone)
        hostile += HOSTILE


@pytest.mark.parametrize("kind", UPDATES)
def test_each_kind_of_malformed_update_is_rejected(kind: str) -> None:
    reply = ClientReply("bad", UPDATES[kind](random.Random(0)))
    assert list(rejected(reply)) == ["bad"]


@pytest.mark.parametrize("kind", WEIGHTS)
def test_each_kind_of_malformed_weight_is_rejected(kind: str) -> None:
    reply = ClientReply("bad", torch.zeros(D), WEIGHTS[kind](random.Random(0)))
    assert "claims a weight of" in rejected(reply)["bad"]


@pytest.mark.parametrize("side", ["statistics", "buffers"])
@pytest.mark.parametrize("kind", SIDES)
def test_each_kind_of_malformed_side_data_is_rejected(kind: str, side: Any) -> None:
    own = SIDES[kind](random.Random(0), {"statistics": STATISTICS, "buffers": BUFFERS}[side])
    assert side in rejected(ClientReply("bad", torch.zeros(D), **{side: own}), side)["bad"]


def rejected(reply: ClientReply, side: Any = None) -> dict[str, str]:
    """Who is rejected in a round with two honest clients."""
    numbers = torch.Generator().manual_seed(0)
    others = [honest(name, numbers, side) for name in ("a", "b")]
    outcome = Server(tiny_learner()).receive([*others, reply], ["a", "b", "bad"], side_data=side)
    assert outcome.record.verdict.committed
    return dict(outcome.rejected_clients)


@pytest.mark.parametrize("count", [0.0, -36.0, 1e9, torch.nan])
def test_a_count_of_values_cannot_outweigh_the_other_clients(count: float) -> None:
    statistics = torch.cat([STATISTICS[:-1] + 5, torch.tensor([count])])
    assert "statistics" in rejected(ClientReply("bad", torch.zeros(D), statistics=statistics), "statistics")["bad"]


@pytest.mark.parametrize("side", ["statistics", "buffers"])
@pytest.mark.parametrize("rule", ["mean", "coordinate_median"])
def test_one_client_that_sends_what_nobody_asked_for_silences_no_other(rule: str, side: str) -> None:
    server = Server(tiny_learner(), AGGREGATORS[rule]())
    before = full_state(server.learner)["model"]
    names = [f"client {i}" for i in range(100)]
    replies = [ClientReply(name, torch.zeros(D)) for name in names[:-1]]
    replies.append(ClientReply(names[-1], torch.full((D,), 1000.0), **{side: torch.zeros(1)}))  # type: ignore[arg-type]
    outcome = server.receive(replies, names)
    assert outcome.rejected_clients == {names[-1]: f"sent {side}, which were not asked for"}
    assert outcome.record.verdict.committed
    for name, p in server.learner.model.named_parameters():
        assert float((p - before[name]).detach().abs().max()) < 1e-3  # weight decay only


def test_silence_is_not_called_infinite() -> None:
    outcome = Server(tiny_learner()).receive([], [f"client {i}" for i in range(7)])
    reason = outcome.record.verdict.reason
    assert outcome.record.verdict.action is Action.REJECT
    assert reason.startswith("no client sent an update that can be used: client 0 sent nothing; client 1")
    assert reason.endswith("and 2 more")
    idle = [ClientReply(name, torch.zeros(D), 0) for name in ("a", "b")]
    reason = Server(tiny_learner()).receive(idle, ["a", "b"]).record.verdict.reason
    assert "a claims a weight of 0, wanted a positive number" in reason


def test_a_round_of_nothing_but_hostile_replies_changes_nothing() -> None:
    learner = tiny_learner()
    before = full_state(learner)
    replies = [ClientReply("a", Raises()), ClientReply("b", None), ClientReply("c", torch.full((D,), torch.nan))]
    outcome = Server(learner).receive(replies, ["a", "b", "c", "d"])
    assert set(outcome.rejected_clients) == {"a", "b", "c", "d"}
    assert outcome.record.verdict.action is Action.REJECT
    for name, value in full_state(learner)["model"].items():
        assert torch.equal(value, before["model"][name])
