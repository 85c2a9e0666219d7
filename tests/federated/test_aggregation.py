"""Federated rounds through the same step as online learning."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from tests.defences.conftest import easy, trained

from taster import Action, ClientUpdates
from taster.core.param_vectors import flatten
from taster.defences import probe_gate
from taster.derivatives.autodiff import gradient
from taster.federated import (
    AGGREGATORS,
    ClientReply,
    Server,
    aggregate_gradient,
    as_gradient,
    coordinate_median,
    fltrust,
    krum,
    mean,
)


def client_update(learner, seed: int) -> torch.Tensor:
    view, batch = learner.view(), tiny_batch(seed=seed)
    return flatten(gradient(lambda p, x, y: view.loss(x, y, params=p), view.trainable, batch))


def test_one_client_under_mean_aggregation_is_one_online_step() -> None:
    online, federated = tiny_learner(), tiny_learner()
    for learner in (online, federated):
        learner.model.eval()  # clients compute gradients at the server's batch-norm statistics
    for i in range(10):
        online.step(tiny_batch(seed=i))
        updates = ClientUpdates(client_update(federated, i)[None], torch.tensor([3.0]))
        assert federated.run(updates, aggregate_gradient(mean)).verdict.committed
        assert same_state(full_state(online), full_state(federated))
    assert federated.steps == 10


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name in AGGREGATORS if name not in ("fltrust", "bulyan")])
def test_a_client_that_is_not_finite_changes_nothing(poison: float, name: str) -> None:
    honest, attacked = tiny_learner(), tiny_learner()
    rule = AGGREGATORS[name]()
    good = torch.stack([client_update(honest, i) for i in range(5)])
    bad = good[:1].clone()
    bad[0, 5] = poison
    honest.run(ClientUpdates(good, torch.ones(5)), aggregate_gradient(rule))
    record = attacked.run(ClientUpdates(torch.cat([bad, good]), torch.ones(6)), aggregate_gradient(rule))
    assert record.dropped == 1
    assert same_state(full_state(honest), full_state(attacked))


def test_a_round_of_nothing_but_broken_clients_is_skipped() -> None:
    learner = tiny_learner()
    before = full_state(learner)
    values = torch.full((3, flatten(learner.view().trainable).numel()), math.nan)
    record = learner.run(ClientUpdates(values, torch.ones(3)), aggregate_gradient(mean))
    assert record.verdict.action is Action.REJECT
    assert same_state(before, full_state(learner))


def test_flattening_is_undone() -> None:
    learner = tiny_learner()
    params = learner.view().trainable
    back = as_gradient(flatten(params), learner.state)
    assert all(torch.equal(back[k], params[k]) for k in params)


def replies(learner, count: int) -> list[ClientReply]:
    return [ClientReply(f"client {i}", client_update(learner, i)) for i in range(count)]


BAD = {
    "NaN": (lambda r: [ClientReply(r.client, r.update * math.nan)], "NaN or infinity"),
    "infinity": (lambda r: [ClientReply(r.client, r.update + math.inf)], "NaN or infinity"),
    "shape": (lambda r: [ClientReply(r.client, r.update[:-1])], "shape"),
    "matrix": (lambda r: [ClientReply(r.client, r.update[None])], "shape"),
    "text": (lambda r: [ClientReply(r.client, "gradient")], "sent str"),
    "complex": (lambda r: [ClientReply(r.client, r.update.to(torch.complex64))], "complex"),
    "sparse": (lambda r: [ClientReply(r.client, r.update.to_sparse())], "sparse"),
    "meta": (lambda r: [ClientReply(r.client, r.update.to("meta"))], "meta"),
    "words for statistics": (
        lambda r: [ClientReply(r.client, r.update, statistics="many")],
        "sent statistics, which were not asked for",
    ),
    "whole numbers for buffers": (
        lambda r: [ClientReply(r.client, r.update, buffers=torch.ones(3, dtype=torch.int64))],
        "sent buffers, which were not asked for",
    ),
    "nothing": (lambda r: [], "sent nothing"),
    "none": (lambda r: [ClientReply(r.client, None)], "NoneType"),
    "twice": (lambda r: [r, r], "2 replies"),
    "heavy": (lambda r: [ClientReply(r.client, r.update, 1e9)], "times the median"),
    "infinite weight": (lambda r: [ClientReply(r.client, r.update, math.inf)], "weight"),
    "negative weight": (lambda r: [ClientReply(r.client, r.update, -1.0)], "weight"),
    "no weight": (lambda r: [ClientReply(r.client, r.update, "much")], "weight"),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("place", [0, 3])
def test_a_bad_client_is_dropped_by_name_and_the_round_goes_on_without_it(fault: str, place: int) -> None:
    spoil, wanted = BAD[fault]
    attacked, without = tiny_learner(), tiny_learner()
    came = replies(attacked, 5)
    bad = came[place].client
    sent = [part for reply in came for part in (spoil(reply) if reply.client == bad else [reply])]
    outcome = Server(attacked).receive(sent, [reply.client for reply in came])
    assert list(outcome.rejected_clients) == [bad]
    assert wanted in outcome.rejected_clients[bad]
    assert outcome.record.verdict.committed
    assert (outcome.record.samples, outcome.record.dropped) == (5, 1)
    rest = [reply for reply in came if reply.client != bad]
    Server(without).receive(rest, [reply.client for reply in rest])
    for a, b in zip(attacked.model.parameters(), without.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_stranger_is_named_and_changes_nothing() -> None:
    attacked, honest = tiny_learner(), tiny_learner()
    came = replies(attacked, 3)
    names = [reply.client for reply in came]
    outcome = Server(attacked).receive([*came, ClientReply("stranger", came[0].update * 100)], names)
    assert outcome.rejected_clients == {"stranger": "was not invited"}
    Server(honest).receive(came, names)
    assert same_state(full_state(attacked), full_state(honest))


def test_a_round_without_a_single_good_client_changes_nothing() -> None:
    learner = tiny_learner()
    before = full_state(learner)
    outcome = Server(learner).receive([], ["a", "b"])
    assert outcome.rejected_clients == {"a": "sent nothing", "b": "sent nothing"}
    assert outcome.record.verdict.action is Action.REJECT
    assert same_state(before, full_state(learner))


def test_too_few_clients_left_for_the_rule_is_a_refusal_and_no_crash() -> None:
    learner = tiny_learner()
    before = full_state(learner)
    came = replies(learner, 5)
    outcome = Server(learner, krum(num_byzantine=1)).receive(came[:4], [reply.client for reply in came])
    assert outcome.record.verdict.action is Action.REJECT
    assert "wanted at least 5" in outcome.record.verdict.reason
    assert same_state(before, full_state(learner))


def test_the_gate_of_the_online_side_undoes_a_poisoned_round() -> None:
    guarded, bare = trained(tiny_learner()), trained(tiny_learner())
    guarded.guard = probe_gate(easy(200, seed=9), seed=1)
    before = full_state(guarded)
    for learner in (guarded, bare):
        came = [ClientReply(str(i), -50_000 * client_update(learner, 9)) for i in range(3)]
        outcome = Server(learner, coordinate_median()).receive(came, ["0", "1", "2"])
        assert outcome.record.verdict.committed is (learner is bare)
    assert same_state(before, full_state(guarded))


def test_fltrust_learns_from_who_points_where_its_probe_does() -> None:
    a, b = tiny_learner(), tiny_learner()
    good = [ClientReply(str(i), client_update(a, i)) for i in range(3)]
    own = fltrust(tiny_batch(8, seed=0)).bind(a.view())
    liar = ClientReply("liar", -50 * good[0].update)
    assert float(own(liar.update[None], torch.ones(1)).abs().max()) == 0.0
    names = [reply.client for reply in good]
    for learner, came in ((a, good), (b, [*good, liar])):
        outcome = Server(learner, fltrust(tiny_batch(8, seed=0))).receive(came, [*names, *["liar"][: len(came) - 3]])
        assert outcome.record.verdict.committed
    for one, other in zip(a.model.parameters(), b.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
