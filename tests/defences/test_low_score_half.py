"""What is honest in a refused batch is learned."""

from __future__ import annotations

from typing import Any

import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from tests.defences.conftest import easy, poison, trained

from taster import Batch, CandidateUpdate, Guard, Verdict, reject
from taster.core.verdict import COMMIT
from taster.defences import probe_gate, retry_low_score_half
from taster.federated import Server
from taster.federated.replies import ClientReply


class Among:
    """A gate that refuses batches with a wrong label among them, or any batch."""

    name = "among"

    def __init__(self, anything: bool = False) -> None:
        self.anything = anything
        self.seen: list[int] = []

    def __call__(self, change: CandidateUpdate) -> Verdict:
        assert isinstance(change.batch, Batch)
        self.seen.append(len(change.batch))
        wrong = change.batch.y != (2 * change.batch.x[:, 0, 0, 0]).round().long()
        return reject("a bad one") if self.anything or bool(wrong.any()) else COMMIT


def test_the_honest_half_is_learned_as_if_alone() -> None:
    honest, probe = easy(32, seed=1), easy(200, seed=9)
    bad = poison(easy(32, seed=2))
    mixed = Batch(torch.cat([bad.x, honest.x]), torch.cat([bad.y, honest.y]))
    learner, twin = trained(tiny_learner()), trained(tiny_learner())
    gate = Among()
    learner.guard = Guard(gates=[gate]) + retry_low_score_half(probe, min_samples=8)
    alarms = []
    learner.on_refusal = lambda record, batch: alarms.append((record, batch))
    record = learner.step(mixed)
    assert learner.counters["salvaged"] == 1
    assert alarms[0][0].verdict == record.verdict
    assert alarms[0][1] is mixed
    assert (record.samples, record.dropped, record.attempts) == (64, 32, 2)
    assert gate.seen == [64, 32]
    assert record.verdict.stage == "among"
    assert record.verdict.reason == "learned 32 of 64 samples: a bad one"
    twin.step(honest)
    assert same_state(full_state(learner), full_state(twin))


def test_if_no_part_passes_nothing_is_learned() -> None:
    learner = trained(tiny_learner())
    before = full_state(learner)
    gate = Among(anything=True)
    learner.guard = Guard(gates=[gate]) + retry_low_score_half(easy(200, seed=9), min_samples=16)
    record = learner.step(easy(64, seed=3))
    assert not record.verdict.committed
    assert gate.seen == [64, 32, 16]
    assert record.attempts == 3
    assert same_state(before, full_state(learner))
    assert learner.steps == 41


def test_a_batch_with_nan_is_not_tried_again() -> None:
    learner = tiny_learner(guard=retry_low_score_half(tiny_batch(50)))
    bad = tiny_batch(64, seed=1)
    bad.x[0, 0, 0, 0] = float("nan")
    assert learner.step(bad).attempts == 0


def test_behind_a_real_gate_it_learns_more() -> None:
    probe = easy(400, seed=9)

    def learned(guard: Guard) -> tuple[int, float]:
        learner = trained(tiny_learner(), 40)
        learner.guard = guard
        count = 0
        for i in range(20):
            clean, wrong = easy(32, seed=100 + i), poison(easy(32, seed=200 + i))
            record = learner.step(Batch(torch.cat([wrong.x, clean.x]), torch.cat([wrong.y, clean.y]), 20.0))
            count += (record.samples - record.dropped) * record.verdict.committed
        return count, learner.view().accuracy(probe.x, probe.y)

    alone, together = (
        learned(probe_gate(probe, seed=1)),
        learned(probe_gate(probe, seed=1) + retry_low_score_half(probe, min_samples=8)),
    )
    assert together[0] > alone[0]
    assert together[1] > alone[1] - 1


def test_a_guard_lists_and_renews_its_salvage() -> None:
    guard: Any = probe_gate(easy(200)) + retry_low_score_half(easy(200))
    assert repr(guard) == "Guard(gates=[probe_gate], salvage=[retry_low_score_half])"
    guard.set_trusted_data(easy(100, seed=5))
    assert len(guard.gates[0].probe) == 100


def test_a_federated_round_is_rejected_as_a_whole() -> None:
    learner = trained(tiny_learner())
    learner.guard = Guard(gates=[lambda change: reject("no")]) + retry_low_score_half(easy(100), min_samples=1)
    size = sum(p.numel() for p in learner.model.parameters())
    before = full_state(learner)
    names = ["a", "b", "c", "d"]
    outcome = Server(learner).receive([ClientReply(name, torch.ones(size)) for name in names], names)
    assert not outcome.record.verdict.committed
    assert outcome.record.attempts == 1
    assert same_state(before, full_state(learner))
