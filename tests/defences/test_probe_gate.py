"""The probe gate: what it refuses, its anchor, its state, renewal."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from tests.core.pair import digest
from tests.defences.conftest import easy, noisy, poison, trained
from torch.nn.functional import cross_entropy

from taster import Batch, Guard, Learner, SnapshotBuffer, View
from taster.core.guard import CandidateUpdate
from taster.defences import (
    probe_gate,
)
from taster.defences.gates.anchor import EARLY
from taster.errors import CheckpointError, SnapshotError


def test_the_probe_gate_refuses_harm_and_keeps_what_helps() -> None:
    learner = tiny_learner(guard=probe_gate(easy(60, seed=9), tolerance=2.0))
    for i in range(40):
        learner.step(easy(32, seed=i))
    reached = learner.view().accuracy(easy(60, seed=9).x, easy(60, seed=9).y)
    assert reached > 90
    before = full_state(learner)
    record = learner.step(poison(easy(32, seed=77), loss_weight=50.0))
    assert record.verdict.stage == "probe_gate"
    assert "would fall by" in record.verdict.reason
    assert same_state(before, full_state(learner))
    assert learner.step(easy(32, seed=78)).verdict.committed


def test_the_anchor_stops_drift_in_small_steps() -> None:
    """Each step costs little: compared with the step before alone they would all pass, or are refused one by one."""
    probe = noisy(400, seed=9)

    def fed_poison(guard: Guard) -> tuple[list[str], float]:
        learner = trained(tiny_learner(), 60, noisy)
        learner.guard = guard
        for group in learner.optimizer.param_groups:
            group["lr"] = 0.001
        records = [learner.step(poison(noisy(32, seed=1000 + i))) for i in range(100)]
        return [r.verdict.reason for r in records if not r.verdict.committed], learner.view().accuracy(probe.x, probe.y)

    reasons, held = fed_poison(probe_gate(probe, tolerance=1.0, alert_steps=0, seed=1))
    assert any("against the anchor" in reason for reason in reasons)
    assert len(reasons) > 20
    _, fallen = fed_poison(Guard())
    assert fallen < 60
    assert held > 80


@pytest.mark.parametrize("every", [1, 3])
def test_the_anchor_starts_at_the_first_state_and_moves_on_evidence(every: int) -> None:
    probe = easy(200, seed=9)
    guard = probe_gate(probe, check_every=every, seed=1)
    learner = tiny_learner(guard=guard, snapshots=SnapshotBuffer(capacity=every))
    (gate,) = guard.gates
    start = learner.view().accuracy(probe.x, probe.y)
    learner.step(easy(32, seed=0))
    assert 100 * float(gate.state_dict()["anchor"]["measured"]["correct"].float().mean()) == pytest.approx(start)
    anchors = []
    for i in range(60):
        learner.step(easy(32, seed=i))
        anchors.append(float(gate.state_dict()["anchor"]["measured"]["correct"].float().mean()))
    assert anchors == sorted(anchors)
    assert anchors[-1] > 0.9
    assert len(set(anchors)) < 10  # not with every fluctuation


def test_calling_the_gate_changes_no_state() -> None:
    guard = probe_gate(easy(60, seed=9), seed=1)
    (gate,) = guard.gates
    learner = tiny_learner(guard=Guard(gates=[lambda change: gate(change)]))  # called, never observing
    for i in range(5):
        learner.step(easy(32, seed=i))
    state = gate.state_dict()
    assert torch.equal(state.pop("losses"), torch.empty(0, 1, 2, dtype=torch.float64))
    assert not any(len(state["age"][part]) for part in ("first", "last"))
    assert not state.pop("age")["checks"]
    assert state == {
        "anchor": None,
        "checked": None,
        "swings": {},
        "seed": 1,
        "block": 0,
        "unaudited": 0.0,
        "unchecked": 0,
        "alerted": 0,
        "phase": EARLY,
        "holdout_refusals": 0,
        "floor": None,
        "lost": [0.0, 0.0],
        "struck": {},
        "classes": [0, 1, 2],
    }


def test_harm_to_one_class_does_not_hide_in_the_mean() -> None:
    probe = easy(600, seed=9)

    def refusals(class_tolerance: float | None) -> list[str]:
        learner = trained(tiny_learner())
        learner.guard = probe_gate(probe, tolerance=60.0, class_tolerance=class_tolerance, seed=1)
        for group in learner.optimizer.param_groups:
            group["lr"] = 0.02
        reasons = []
        for i in range(40):
            clean = easy(64, seed=1000 + i)
            wrong = Batch(clean.x, torch.where(clean.y == 1, 2, clean.y))
            verdict = learner.step(wrong).verdict
            reasons += [] if verdict.committed else [verdict.reason]
        return reasons

    assert any(", class 1," in reason for reason in refusals(5.0))
    assert refusals(None) == []


class Says(torch.nn.Module):
    """A model that says this of the probe."""

    def __init__(self, said: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(8.0 * torch.nn.functional.one_hot(said, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[x.long()]


def view_of(said: torch.Tensor) -> View:
    model = Says(said)
    return Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy).view()


@pytest.mark.parametrize(
    ("forgotten", "learned", "refused"), [(10, 0, False), (60, 0, True), (60, 20, True), (60, 200, False)]
)
def test_a_class_pays_only_for_what_is_learned(forgotten: int, learned: int, refused: bool) -> None:
    """Of an old class of 200 samples some are forgotten. That is the price where a new class is learned, and accuracy
    grows; where little is learned for it, it is harm."""
    y = torch.arange(600) % 3
    (gate,) = probe_gate(Batch(torch.arange(600), y), tolerance=60.0, seed=1).gates
    before, after = torch.where(y == 2, 0, y), torch.where(y == 2, 0, y)
    after[(y == 2).nonzero().squeeze(1)[:learned]] = 2
    after[(y == 1).nonzero().squeeze(1)[:forgotten]] = 2
    verdict = gate(CandidateUpdate(0, tiny_batch(), {}, 1.0, view_of(before), view_of(after)))
    assert verdict.committed is not refused
    assert ("on the probe, class 1, would fall by" in verdict.reason) is refused


def test_with_checks_every_few_steps_it_rewinds_to_the_last_check() -> None:
    probe = easy(200, seed=9)
    guard = probe_gate(probe, check_every=4, check_on_loss_outlier=False)
    learner = tiny_learner(guard=guard, snapshots=SnapshotBuffer(capacity=6))
    trained(learner)
    assert learner.steps == 40
    good = full_state(learner)
    verdicts = [learner.step(poison(easy(32, seed=i))).verdict for i in range(4)]
    assert [v.action.name for v in verdicts] == ["COMMIT", "COMMIT", "COMMIT", "REWIND"]
    assert verdicts[-1].steps == 3
    assert same_state(good, full_state(learner))


def test_a_gate_resumes_from_its_state() -> None:
    probe = easy(200, seed=9)
    learner = trained(tiny_learner(guard=probe_gate(probe, seed=1)))
    twin = probe_gate(probe, seed=2)
    twin.load_state_dict(learner.guard.state_dict())
    (ours,), (theirs,) = learner.guard.gates, twin.gates
    assert digest(ours.state_dict()) == digest(theirs.state_dict())
    learner.guard = twin
    assert not learner.step(poison(easy(32, seed=77), loss_weight=50.0)).verdict.committed


def test_a_gate_that_rewinds_needs_snapshots_that_reach_as_far() -> None:
    guard = probe_gate(easy(100, seed=1), check_every=4)
    assert guard.max_rewind == 3
    for history in (SnapshotBuffer(capacity=3), SnapshotBuffer(capacity=1, every=4)):
        with pytest.raises(SnapshotError, match="rewinds up to 3 steps"):
            tiny_learner(guard=guard, snapshots=history)
    for history in (None, SnapshotBuffer(capacity=4), SnapshotBuffer(capacity=2, every=4)):
        learner = tiny_learner(guard=guard, snapshots=history)
        assert learner.snapshots is not None
        assert learner.snapshots.reach >= 3


def test_after_renewal_only_the_new_probe_counts() -> None:
    guard = probe_gate(easy(400, seed=1), seed=1)
    (gate,) = guard.gates
    learner = tiny_learner(guard=guard)
    for i in range(20):
        learner.step(easy(32, seed=10 + i))
    fresh = poison(easy(300, seed=3))
    guard.set_trusted_data(fresh)
    start = learner.view().forward(fresh.x).argmax(1) == fresh.y
    # The old probe's samples are not asked any more: what they would call poison is learned.
    assert learner.step(fresh).verdict.committed
    state = gate.state_dict()
    assert torch.equal(state["anchor"]["measured"]["correct"], start)
    for i in range(40):
        assert learner.step(poison(easy(32, seed=100 + i))).verdict.committed
    assert learner.view().accuracy(fresh.x, fresh.y) > 60
    assert not learner.step(Batch(*easy(32, seed=77), 50.0)).verdict.committed


def test_the_state_of_a_gate_with_another_probe_is_refused() -> None:
    learner = tiny_learner(guard=probe_gate(easy(100, seed=1)))
    learner.step(easy(32))
    other = tiny_learner(guard=probe_gate(easy(120, seed=1)))
    with pytest.raises(CheckpointError, match="a probe of 100 samples, wanted 120"):
        other.load_state_dict(learner.state_dict())


def test_harmful_momentum_is_reset_after_refusals() -> None:
    """An honest step may fail for what came before it; it does not for ever."""

    def refusals(patience: int) -> tuple[int, float]:
        probe = easy(400, seed=9)
        learner = trained(tiny_learner())
        for state in learner.optimizer.state.values():
            state["momentum_buffer"] += 2 * torch.randn(
                state["momentum_buffer"].shape, generator=torch.Generator().manual_seed(0)
            )
        learner.guard = probe_gate(probe, reset_momentum_after=patience)
        refused = sum(not learner.step(easy(32, seed=500 + i)).verdict.committed for i in range(30))
        return refused, learner.view().accuracy(probe.x, probe.y)

    assert refusals(0)[0] == 30
    patient, accuracy = refusals(2)
    assert 2 <= patient < 10
    assert accuracy > 95
