"""What gates with trusted data share: checks, memory, rewinding."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_learner
from tests.defences.conftest import accuracy, easy, poison, trained

import taster
from taster import Batch, Guard, SnapshotBuffer, Verdict, reject, rewind
from taster.core.guard import CandidateUpdate
from taster.core.verdict import COMMIT, Action
from taster.defences import (
    probe_gate,
)
from taster.errors import GuardError


def test_a_guard_used_with_another_learner_is_an_error() -> None:
    guard = probe_gate(easy(200, seed=9))
    trained(tiny_learner(guard=guard))
    other = tiny_learner(seed=1, guard=guard)
    with pytest.raises(GuardError, match="has watched another learner"):
        other.step(easy(32))
    guard.set_trusted_data(easy(200, seed=9))
    assert other.step(easy(32)).verdict.committed


def test_parts_of_a_refused_batch_are_checked_between_checks_too() -> None:
    learner = trained(tiny_learner())
    learner = tiny_learner(guard=taster.guard(easy(400, seed=9), check_every=4))
    trained(learner)
    for group in learner.optimizer.param_groups:
        group["lr"] = 2.0
    before = accuracy(learner)
    for i in range(8):
        clean, wrong = easy(32, seed=100 + i), poison(easy(96, seed=200 + i))
        learner.step(Batch(torch.cat([wrong.x, clean.x]), torch.cat([wrong.y, clean.y])))
        assert accuracy(learner) > before - 5


def test_refused_steps_do_not_evict_the_state_to_rewind_to() -> None:
    learner = tiny_learner(
        guard=probe_gate(easy(300, seed=9), check_every=4, check_on_loss_outlier=False, alert_steps=0)
    )
    trained(learner)
    before = accuracy(learner)
    assert learner.step(poison(easy(64, seed=1), loss_weight=20.0)).verdict.committed  # not looked at yet
    assert accuracy(learner) < before - 20
    for _ in range(12):
        assert not learner.step(poison(easy(8, seed=2), loss_weight=float("inf"))).verdict.committed
    for i in range(4):
        learner.step(easy(32, seed=300 + i))
    assert accuracy(learner) > before - 5


def test_a_model_below_its_anchor_may_climb_back() -> None:
    """A model that has got below its anchor, however it did, may climb back."""
    probe = easy(300, seed=9)
    guard = probe_gate(probe)
    learner = trained(tiny_learner(guard=guard))
    (good,) = guard.state_dict()
    learner.guard = Guard()
    for _ in range(3):
        learner.step(poison(easy(64, seed=1)))
    assert accuracy(learner) < 80
    learner.guard = guard
    guard.set_trusted_data(probe)
    learner.step(easy(32, seed=399))
    (now,) = guard.state_dict()
    assert good is not None
    assert now is not None
    guard.load_state_dict([{**now, "anchor": good["anchor"]}])
    committed = [learner.step(easy(32, seed=400 + i)).verdict.committed for i in range(40)]
    assert sum(committed) > 30
    assert accuracy(learner) > 95


def test_a_trusted_step_sets_the_anchor() -> None:
    learner = trained(
        tiny_learner(guard=probe_gate(easy(300, seed=9), max_rewind=4), snapshots=SnapshotBuffer(capacity=6))
    )
    record = learner.step(poison(easy(64, seed=1), loss_weight=5.0), trusted=True)
    assert record.verdict.committed
    assert record.trusted
    state = full_state(learner)
    again = learner.step(easy(32, seed=2))
    assert again.verdict.action is not Action.REWIND
    if not again.verdict.committed:
        assert same_state(state, full_state(learner))


def test_a_rewind_leaves_the_learning_rate_to_its_schedule() -> None:
    class Back:
        def __call__(self, change: CandidateUpdate) -> Verdict:
            return rewind(3, "back") if change.step == 5 else COMMIT

    learner = tiny_learner(guard=Guard(gates=[Back()]), snapshots=SnapshotBuffer(capacity=6))
    schedule = torch.optim.lr_scheduler.ExponentialLR(learner.optimizer, 0.9)
    for i in range(8):
        learner.step(easy(32, seed=i))
        schedule.step()
    assert learner.counters["rewound"] == 1
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**8)


def test_a_batch_refused_in_all_parts_has_the_first_reason() -> None:
    class Counts:
        def __call__(self, change: CandidateUpdate) -> Verdict:
            return reject(f"attempt {change.attempt}", "", {"drop": float(change.attempt)})

    learner = tiny_learner(
        guard=Guard(gates=[Counts()]) + taster.defences.retry_low_score_half(easy(100), min_samples=8)
    )
    record = learner.step(easy(64))
    assert (record.verdict.reason, record.verdict.evidence, record.dropped) == ("attempt 0", {"drop": 0.0}, 0)
    assert record.attempts == 4


@pytest.mark.parametrize("weights", [None, [20.0, 20.0, 20.0], [0.1, 1.0, 5.0]])
def test_an_outlying_loss_is_checked_whatever_the_class_weights(weights: list[float] | None) -> None:
    """Between checks, poison is found by its loss, which class weights must not put on another scale."""
    loss = torch.nn.CrossEntropyLoss(weight=None if weights is None else torch.tensor(weights))
    learner = tiny_learner(guard=probe_gate(easy(300, seed=9), check_every=8))
    learner.loss = loss
    trained(learner)
    assert learner.steps % 8 == 0
    assert learner.step(easy(32, seed=100)).verdict.committed
    before = accuracy(learner)
    for group in learner.optimizer.param_groups:
        group["lr"] = 5.0
    record = learner.step(poison(easy(64, seed=1)))
    assert not record.verdict.committed
    assert record.verdict.steps <= 1
    assert accuracy(learner) >= before - 1
