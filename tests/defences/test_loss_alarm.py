"""The loss alarm: warnings, checks, alarm and all-clear, in the order of Algorithm 3; its thresholds; its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Guard, Learner, SnapshotBuffer
from taster.core.client_updates import ClientUpdates
from taster.core.guard import CandidateUpdate
from taster.core.verdict import Action
from taster.defences import loss_alarm
from taster.errors import CheckpointError, GuardError, SnapshotError


def easy(n: int, seed: int = 0) -> Batch:
    """The class is where the bright rows are, under noise."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = 0.5 * torch.rand(n, 1, 6, 6, generator=g)
    for i, label in enumerate(y.tolist()):
        x[i, :, 2 * label : 2 * label + 2] += 0.4
    return Batch(x, y)


def wrong(n: int, seed: int = 0) -> Batch:
    clean = easy(n, seed)
    return Batch(clean.x, (clean.y + 1) % 3)


def alarm(probe: Batch | None = None, **settings: Any) -> Guard:
    return loss_alarm(easy(200, 900) if probe is None else probe, torch.Generator().manual_seed(0), **settings)


def learner(guard: Guard, rate: float = 0.5, **options: Any) -> Learner:
    """Trained to be right nearly always, then guarded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    plain = Learner(model, optimizer, cross_entropy)
    for i in range(80):
        plain.step(easy(40, i))
    optimizer.param_groups[0]["lr"] = rate
    return Learner(model, optimizer, cross_entropy, guard, **options)


def test_clean_data_cause_warnings_at_the_quantiles_rate_and_no_alarm() -> None:
    guard = alarm(quantile=0.9, max_warnings=10**6)
    victim = learner(guard, rate=1e-6)
    for i in range(200):
        assert victim.step(easy(10, 1000 + i)).verdict.committed
    (gate,) = guard.gates
    assert 5 <= gate.warnings <= 40  # 20 expected
    assert gate.alarm_count == gate.check_count == 0


def test_one_poisoned_sample_sets_off_the_alarm_and_leaves_no_trace() -> None:
    guard = alarm(max_warnings=0)
    victim = learner(guard, rate=3.0)
    assert victim.step(easy(1, 1)).verdict.committed
    before = full_state(victim)
    record = victim.step(wrong(1, 2))
    assert (record.verdict.action, record.verdict.stage) == (Action.REJECT, "loss_alarm")
    assert "alarm: after 1 warnings" in record.verdict.reason
    assert same_state(before, full_state(victim))
    assert guard.gates[0].alarm_step == record.step


def test_the_alarm_ends_the_learning_until_the_probe_is_renewed() -> None:
    guard = alarm(max_warnings=0)
    victim = learner(guard, rate=3.0)
    victim.step(wrong(1, 2))
    for i in range(3):
        record = victim.step(easy(10, i))
        assert "the alarm of step 0 stands" in record.verdict.reason
    guard.set_trusted_data(easy(200, 901))
    assert guard.gates[0].alarm_step is None
    assert victim.step(easy(10, 4)).verdict.committed
    assert guard.gates[0].alarm_count == 1


def test_on_alarm_continue_clears_the_warnings_and_goes_on() -> None:
    guard = alarm(max_warnings=0, on_alarm="continue")
    victim = learner(guard, rate=3.0)
    assert not victim.step(wrong(1, 2)).verdict.committed
    victim.optimizer.param_groups[0]["lr"] = 0.01
    assert victim.step(easy(10, 3)).verdict.committed
    victim.optimizer.param_groups[0]["lr"] = 3.0
    assert not victim.step(wrong(1, 4)).verdict.committed
    assert (guard.gates[0].alarm_count, guard.gates[0].alarm_step, guard.gates[0].warnings) == (2, 2, 0)


def test_warnings_add_up_and_a_check_that_finds_nothing_clears_them() -> None:
    guard = alarm(max_warnings=2)
    (gate,) = guard.gates
    victim = learner(guard, rate=1e-6)  # great losses, no harm
    seen = []
    for i in range(7):
        assert victim.step(wrong(5, i)).verdict.committed
        seen.append((gate.warnings, gate.check_count))
    assert seen == [(1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2)]
    assert gate.alarm_count == 0


def test_harm_without_a_warning_is_not_checked() -> None:
    """A limit of the method: it rests on the loss."""
    guard = alarm(loss_threshold=1e9, max_warnings=0)
    victim = learner(guard, rate=3.0)
    assert victim.step(wrong(1, 2)).verdict.committed
    probe = easy(200, 900)
    assert victim.view().accuracy(probe.x, probe.y) < 80


def test_granularity_sample_counts_samples() -> None:
    mixed = Batch(torch.cat([easy(20, 1).x, wrong(4, 2).x]), torch.cat([easy(20, 1).y, wrong(4, 2).y]))
    guard = alarm(granularity="sample", max_warnings=100, quantile=1.0)
    victim = learner(guard, rate=1e-6)
    victim.step(mixed)
    (gate,) = guard.gates
    losses = victim.view().sample_losses(mixed.x, mixed.y)
    assert gate.warnings == int((losses > gate.threshold(1, victim.view())).sum()) == 4


def test_the_threshold_is_a_quantile_over_batches_of_the_same_size() -> None:
    guard = alarm(quantile=0.95)
    victim, (gate,) = learner(guard), guard.gates
    view, probe = victim.view(), easy(200, 900)
    single = view.sample_losses(probe.x, probe.y)
    assert gate.threshold(1, view) == pytest.approx(float(single.quantile(0.95, interpolation="higher")))
    assert gate.threshold(1, view) > gate.threshold(20, view) > float(single.mean())
    assert gate.threshold(20, view) == gate.threshold(20, view)
    assert alarm(loss_threshold=0.7).gates[0].threshold(20, view) == 0.7


def test_the_threshold_is_estimated_again_only_at_an_all_clear() -> None:
    guard = alarm(max_warnings=1, tolerance=100.0)
    victim, (gate,) = learner(guard, rate=0.05), guard.gates
    found = []
    for batch in (easy(40, 0), wrong(3, 1), easy(40, 2), wrong(3, 3), easy(40, 4)):
        victim.step(batch)
        found.append((gate.check_count, gate.threshold(1, victim.view())))
    assert [looks for looks, _ in found] == [0, 0, 0, 1, 1]
    thresholds = [value for _, value in found]
    assert thresholds[0] == thresholds[1] == thresholds[2] != thresholds[3] == thresholds[4]


def test_max_warnings_follow_from_the_expected_check_interval() -> None:
    def least(**settings: Any) -> int:
        return alarm(**settings).gates[0].max_warnings

    assert least() == 0
    assert least(quantile=0.95) == 4
    assert least(quantile=0.9, expected_check_interval=50) == 4
    assert least(quantile=0.95, max_warnings=7) == 7


def test_calling_the_gate_changes_nothing() -> None:
    guard = alarm(max_warnings=0)
    victim, (gate,) = learner(guard), guard.gates
    victim.step(easy(10, 0))
    poison, state = wrong(1, 2), guard.state_dict()
    change = CandidateUpdate(1, poison, {}, 5.0, victim.view(), victim.view())
    for _ in range(3):
        gate(change)
    after = guard.state_dict()
    assert state[0] is not None
    assert after[0] is not None
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(
        state[0].values(), after[0].values(), strict=True
    ))  # fmt: skip


def test_an_alarm_undoes_up_to_max_rewind_steps() -> None:
    guard = alarm(max_warnings=2, max_rewind=3, tolerance=5.0)
    victim = learner(guard, rate=1.0, snapshots=SnapshotBuffer(capacity=4))
    states = []
    record = None
    for i in range(12):
        states.append(full_state(victim))
        record = victim.step(wrong(3, i))
        if not record.verdict.committed:
            break
    assert record is not None
    assert record.verdict.action is Action.REWIND
    undone = record.verdict.steps
    assert undone == min(3, record.step)
    assert same_state(full_state(victim), states[record.step - undone])
    with pytest.raises(SnapshotError, match="a guard that rewinds up to 3"):
        learner(alarm(max_rewind=3), snapshots=SnapshotBuffer(capacity=2))


def test_the_anchor_moves_up_at_an_all_clear_and_never_down() -> None:
    guard = alarm(max_warnings=0, tolerance=100.0, loss_threshold=0.0)  # checks at every step, never alarms
    victim, (gate,) = learner(guard, rate=0.5), guard.gates
    best = 0
    for i in range(10):
        victim.step(easy(40, i) if i % 2 else wrong(4, i))
        state = gate.state_dict()
        assert int(state["anchor"].sum()) >= best
        best = int(state["anchor"].sum())
    assert gate.check_count == 10


def test_it_resumes_from_its_state_with_the_same_verdicts() -> None:
    def run(interrupt: bool) -> list[str]:
        guard = alarm(quantile=0.8, max_warnings=1)
        victim, found = learner(guard, rate=2.0), []
        for i in range(14):
            if interrupt and i == 7:
                state = victim.state_dict()
                guard = alarm(quantile=0.8, max_warnings=1)
                victim = learner(guard, rate=2.0)
                victim.load_state_dict(state)
            record = victim.step(wrong(2, i) if i > 7 else easy(10, i))
            found.append(f"{record.verdict.action.name} {record.verdict.reason} {guard.gates[0].warnings}")
        return found

    whole = run(False)
    assert run(True) == whole
    assert any("REJECT" in line for line in whole)
    guard = alarm()
    victim = learner(guard)
    victim.step(easy(10, 0))
    other = alarm(easy(50, 3))
    with pytest.raises(CheckpointError, match="a probe of 200 samples, wanted 50"):
        other.load_state_dict(guard.state_dict())


def test_updates_without_a_loss_are_an_error() -> None:
    guard = alarm()
    view = learner(guard).view()
    updates = ClientUpdates(torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(GuardError, match="an update without a loss"):
        guard.gates[0](CandidateUpdate(0, updates, {}, None, view, view))
