"""Where nothing of a batch passes, trusted samples are learned in its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from tests.defences.conftest import accuracy, easy, noisy, poison, trained

import taster
from taster import Batch, CandidateUpdate, Guard, Learner, Verdict, reject
from taster.core.verdict import COMMIT
from taster.defences import probe_gate, retry_low_score_half, trusted_replay
from taster.errors import BatchError, LabelError
from taster.federated import Server
from taster.federated.replies import ClientReply


class OnlyFrom:
    """A gate that accepts what comes from these samples alone."""

    name = "only"

    def __init__(self, samples: Batch) -> None:
        self.known = {tuple(x.flatten().tolist()) for x in samples.x}
        self.seen: list[Batch] = []

    def __call__(self, change: CandidateUpdate) -> Verdict:
        assert isinstance(change.batch, Batch)
        self.seen.append(change.batch)
        return COMMIT if all(tuple(x.flatten().tolist()) in self.known for x in change.batch.x) else reject("strange")


def test_trusted_samples_are_learned_in_the_place_of_a_refused_batch() -> None:
    trusted, bad = tiny_batch(60, seed=5), poison(noisy(32, seed=6))
    gate = OnlyFrom(trusted)
    learner, twin = trained(tiny_learner()), trained(tiny_learner())
    learner.guard = Guard(gates=[gate]) + retry_low_score_half(easy(50)) + trusted_replay(trusted)
    record = learner.step(bad)
    assert [len(batch) for batch in gate.seen] == [32, 16, 32]
    assert record.verdict.committed
    assert (record.samples, record.dropped, record.attempts, record.verdict.stage) == (32, 32, 3, "only")
    assert record.verdict.reason == "learned 32 other samples in its place: strange"
    assert len({tuple(x.flatten().tolist()) for x in gate.seen[2].x}) == 32
    twin.step(gate.seen[2])
    assert same_state(full_state(learner), full_state(twin))


def test_what_the_gate_refuses_is_not_learned() -> None:
    learner = trained(tiny_learner())
    before = full_state(learner)
    learner.guard = Guard(gates=[lambda change: reject("no")]) + trusted_replay(easy(60))
    record = learner.step(easy(32, seed=6))
    assert (record.verdict.committed, record.dropped, record.attempts) == (False, 0, 2)
    assert same_state(before, full_state(learner))


def draws(steps: int, seed: int, count: int = 8, trusted: int = 40) -> list[Any]:
    gate = OnlyFrom(samples := tiny_batch(trusted, seed=5))
    learner = tiny_learner(guard=Guard(gates=[gate]) + trusted_replay(samples, seed=seed))
    for i in range(steps):
        learner.step(noisy(count, seed=100 + i))
    return [batch.x for batch in gate.seen[1::2]]


def test_draws_depend_on_seed_and_step_alone() -> None:
    first, again, other = draws(3, 0), draws(3, 0), draws(3, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_few_samples_are_drawn_again() -> None:
    (drawn,) = draws(1, 0, count=10, trusted=4)
    rows = [tuple(x.flatten().tolist()) for x in drawn]
    assert len(rows) == 10
    assert sorted(rows.count(row) for row in set(rows)) == [2, 2, 3, 3]


def test_a_starved_learner_goes_on_learning() -> None:
    def end(guard: Guard) -> float:
        learner = trained(tiny_learner(), 12, noisy)
        learner.guard = guard
        for i in range(30):
            learner.step(poison(noisy(32, seed=1000 + i)))
        return accuracy(learner)

    gate, alone = (probe_gate(noisy(400, seed=9), seed=0) for _ in range(2))
    assert end(gate + trusted_replay(noisy(300, seed=5))) > end(alone) + 5


def test_nested_batches_are_replayed() -> None:
    def nested(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        return Batch({"a": torch.randn(6, 4, generator=g), "names": [str(i) for i in range(6)]}, torch.arange(6) % 3)

    seen = []

    def gate(change: CandidateUpdate) -> Verdict:
        seen.append(change.batch)
        return COMMIT if change.attempt else reject("no")

    class OfA(torch.nn.Linear):
        def forward(self, a: Any, names: Any) -> Any:
            assert len(names) == len(a)
            return super().forward(a)

    torch.manual_seed(0)
    model = OfA(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = Guard(gates=[gate]) + trusted_replay(nested(5))
    record = Learner(model, optimizer, torch.nn.functional.cross_entropy, guard).step(nested(1))
    assert record.verdict.reason == "learned 6 other samples in its place: no"
    order = [int(name) for name in seen[1].x["names"]]
    assert torch.equal(seen[1].x["a"], nested(5).x["a"][order])


def test_a_probe_that_is_renewed_is_not_replayed() -> None:
    trusted = easy(40, seed=5)
    guard = probe_gate(easy(200)) + trusted_replay(trusted)
    guard.set_trusted_data(easy(100, seed=3))
    assert guard.salvage[0].samples is trusted


def test_a_federated_round_is_rejected_as_a_whole() -> None:
    learner = trained(tiny_learner())
    learner.guard = Guard(gates=[lambda change: reject("no")]) + trusted_replay(easy(100))
    size = sum(p.numel() for p in learner.model.parameters())
    names = ["a", "b", "c"]
    outcome = Server(learner).receive([ClientReply(name, torch.ones(size)) for name in names], names)
    assert (outcome.record.verdict.committed, outcome.record.attempts) == (False, 1)


def test_samples_that_do_not_fit_are_refused_at_once() -> None:
    good = easy(20)
    with pytest.raises(BatchError, match="NaN or infinity"):
        trusted_replay(Batch(good.x * float("nan"), good.y))
    with pytest.raises(BatchError, match="trusted_replay: the model cannot take"):
        tiny_learner(guard=trusted_replay(Batch(good.x.expand(20, 2, 6, 6), good.y)))
    late = easy(2500)
    late.y[2400] = 7
    with pytest.raises((LabelError, BatchError)):
        tiny_learner(guard=trusted_replay(late))
    assert "trusted_replay" in repr(taster.guard(easy(600)) + trusted_replay(good))
