"""The accuracy monitor: what it stops, what it lets through, how it is reset; its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state
from tests.defences.conftest import easy, poison, trained
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from taster import Batch, Guard, Learner
from taster.core.client_updates import ClientUpdates
from taster.core.guard import CandidateUpdate
from taster.core.verdict import reject
from taster.defences import accuracy_monitor, retry_low_score_half
from taster.errors import CheckpointError, GuardError, SettingError


class Table(nn.Module):
    """Sample i's prediction is entry i of a buffer, so that a test says which samples are right; −1 stands for NaN."""

    def __init__(self, guesses: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("guesses", guesses.clone())
        self.weight = nn.Parameter(torch.zeros(1))
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        guesses = self.guesses[x[:, 0].long()]
        logits = 4.0 * one_hot(guesses.clamp(min=0), self.classes).to(x.dtype)
        return torch.where(guesses[:, None] < 0, torch.nan, logits) + 0 * self.weight


class Watched:
    """A learner whose guesses a test sets before each step: they are made as part of the update."""

    def __init__(self, y: Tensor, guard: Guard) -> None:
        self.y, self.next, self.classes = y, y.clone(), int(y.max()) + 1
        self.model = Table(y, self.classes)
        self.learner = Learner(
            self.model, torch.optim.SGD(self.model.parameters(), 0.1), cross_entropy, Guard(transforms=[self._guess])
        )
        self.learner.guard = Guard(transforms=[self._guess]) + guard

    def _guess(self, gradient: dict[str, Tensor], view: Any) -> dict[str, Tensor]:
        self.model.guesses.copy_(self.next)
        return gradient

    def step(self, *wrong: int) -> Any:
        """A step after which exactly these samples are wrong."""
        self.next = self.y.clone()
        for i in wrong:
            self.next[i] = (self.y[i] + 1) % self.classes
        return self.learner.step(Batch(torch.zeros(4, 1), self.y[:4]))


def probe_of(y: Tensor) -> Batch:
    return Batch(torch.arange(len(y), dtype=torch.float32)[:, None], y)


def learner(guard: Guard, rate: float = 0.5, seed: int = 0, **options: Any) -> Learner:
    """Trained to be right nearly always, then guarded."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    trained(Learner(model, optimizer, cross_entropy), 80)
    optimizer.param_groups[0]["lr"] = rate
    return Learner(model, optimizer, cross_entropy, guard, **options)


TWENTY = torch.tensor([0] * 10 + [1] * 6 + [2] * 4)


def watched(**settings: Any) -> tuple[Watched, Any]:
    guard = accuracy_monitor(probe_of(TWENTY), **settings)
    return Watched(TWENTY, guard), guard.gates[0]


def test_a_fall_of_exactly_the_limit_is_committed_and_one_more_sample_stops_the_learning() -> None:
    subject, gate = watched(max_drop=10.0)
    assert subject.step(0, 1).verdict.committed  # 2 of 20: ten points
    before = full_state(subject.learner)
    record = subject.step(0, 1, 2)
    assert (record.verdict.committed, record.verdict.stage) == (False, "accuracy_monitor")
    fall = "accuracy on the probe fell from 100.0 % at the beginning to 85.0 %, by more than 10 points"
    assert record.verdict.reason == f"learning is stopped: {fall}"
    assert gate.stop_reason == fall
    assert same_state(before, full_state(subject.learner))
    assert gate.stop_step == record.step == 1


def test_every_later_update_is_refused_until_the_probe_is_renewed() -> None:
    subject, gate = watched(max_drop=10.0)
    subject.step(0, 1, 2)
    for _ in range(3):
        reason = subject.step().verdict.reason
        assert reason.startswith("learning was stopped at step 0, as accuracy on the probe fell from 100.0 %")
        assert "renew the guard's probe" in reason
    subject.learner.guard.set_trusted_data(probe_of(TWENTY))
    assert (gate.stop_step, gate.stop_reason) == (None, None)
    assert subject.step().verdict.committed


def test_the_beginning_is_the_model_before_the_first_step_and_after_a_renewal_the_model_of_then() -> None:
    subject, gate = watched(max_drop=10.0)
    subject.step(0)
    subject.step(0, 1)
    subject.learner.guard.set_trusted_data(probe_of(TWENTY))
    assert subject.step(0, 1, 2, 3).verdict.committed  # ten points below the 90 % of then
    assert "fell from 90.0 % at the beginning to 75.0 %" in subject.step(0, 1, 2, 3, 4).verdict.reason
    assert gate.stop_step == 3


def test_the_reference_does_not_rise_with_the_model() -> None:
    """A limit of the method: what was learned meanwhile may be lost again."""
    guard = accuracy_monitor(probe_of(TWENTY), max_drop=10.0)
    subject = Watched(TWENTY, guard)
    subject.model.guesses[:6] = 1  # 70 % at the beginning
    for wrong in ((), (0, 1, 2, 3, 4, 5, 6, 7)):
        assert subject.step(*wrong).verdict.committed
    assert not subject.step(*range(9)).verdict.committed


def test_recall_is_watched_by_class_where_a_limit_is_given() -> None:
    lost = (16, 17)  # two of the four samples of class 2: ten points of accuracy, fifty of recall
    subject, _ = watched(max_drop=20.0)
    assert subject.step(*lost).verdict.committed
    subject, gate = watched(max_drop=20.0, max_recall_drop=50.0)
    assert subject.step(*lost).verdict.committed
    verdict = subject.step(*lost, 18).verdict
    assert "recall of class 2 on the probe fell from 100.0 % at the beginning to 25.0 %, by more than 50 points" in (
        verdict.reason
    )
    assert not verdict.committed
    assert gate.stop_step == 1


def test_a_class_that_gains_does_not_hide_one_that_loses() -> None:
    guard = accuracy_monitor(probe_of(TWENTY), max_drop=0.0, max_recall_drop=20.0)
    subject = Watched(TWENTY, guard)
    subject.model.guesses[:5] = 1
    assert "recall of class 1" in subject.step(10, 11).verdict.reason


def test_a_class_without_trusted_samples_is_not_watched() -> None:
    y = torch.tensor([0] * 4 + [3] * 4)
    subject = Watched(y, accuracy_monitor(probe_of(y), max_drop=100.0, max_recall_drop=30.0))
    assert subject.step(0).verdict.committed
    assert "recall of class 3" in subject.step(0, 6, 7).verdict.reason


def test_the_last_update_may_stay_as_with_a_monitor_in_the_background() -> None:
    subject, gate = watched(max_drop=10.0, last_update="keep")
    record = subject.step(0, 1, 2, 3)
    assert record.verdict.committed
    assert record.verdict.reason.startswith("learning is stopped after this update: accuracy on the probe fell")
    assert gate.stop_step == 0
    assert subject.model.guesses.ne(TWENTY).sum() == 4
    assert not subject.step().verdict.committed
    assert subject.model.guesses.ne(TWENTY).sum() == 4


def test_an_update_that_another_gate_has_refused_has_harmed_nothing() -> None:
    def refuse_all(change: CandidateUpdate) -> Any:
        return reject("never")

    for last_update, stopped in (("keep", None), ("refuse", 0)):
        guard = accuracy_monitor(probe_of(TWENTY), max_drop=10.0, last_update=last_update)
        subject = Watched(TWENTY, guard + Guard(gates=[refuse_all]))
        assert not subject.step(0, 1, 2, 3).verdict.committed
        assert guard.gates[0].stop_step == stopped


def test_a_fall_leaves_no_part_of_the_batch_to_try_again() -> None:
    guard = accuracy_monitor(easy(200, 900), max_drop=5.0) + retry_low_score_half(easy(200, 900))
    subject = learner(guard, rate=3.0)
    record = subject.step(poison(easy(64, 1)))
    assert not record.verdict.committed
    assert guard.gates[0].stop_step == record.step
    assert record.attempts > 1


def test_a_model_that_is_nan_on_the_probe_has_fallen() -> None:
    """Also of samples of class 0, which argmax names where everything is NaN."""
    y = torch.tensor([0, 0, 0, 0, 0, 1])
    subject = Watched(y, accuracy_monitor(probe_of(y).select(slice(5)), max_drop=100.0))
    subject.next[4] = -1
    verdict = subject.learner.step(Batch(torch.zeros(4, 1), y[:4])).verdict
    assert not verdict.committed
    assert "after the update the probability is NaN or infinite on 1 of 5 trusted samples" in verdict.reason


def test_calling_the_gate_changes_nothing() -> None:
    guard = accuracy_monitor(easy(200, 900))
    subject, (gate,) = learner(guard), guard.gates
    subject.step(easy(10, 0))
    state = gate.state_dict()
    other = learner(Guard(), seed=5)
    change = CandidateUpdate(1, easy(10), {}, 0.5, subject.view(), other.view())
    verdicts = [gate(change) for _ in range(3)]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    after = gate.state_dict()
    assert torch.equal(state.pop("reference"), after.pop("reference"))
    assert state == after


def test_a_trusted_step_is_made_although_the_learning_is_stopped() -> None:
    guard = accuracy_monitor(easy(200, 900))
    subject = learner(guard, rate=3.0)
    assert not subject.step(poison(easy(64, 1))).verdict.committed
    assert subject.step(easy(32, 2), trusted=True).verdict.committed
    assert not subject.step(easy(32, 3)).verdict.committed


def run(build: Callable[[], Guard], interrupt: int | None) -> list[str]:
    guard = build()
    subject, found = learner(guard, rate=0.03), []
    for i in range(10):
        if i == interrupt:
            state = subject.state_dict()
            guard = build()
            subject = learner(guard, rate=0.03)
            subject.load_state_dict(state)
        record = subject.step(poison(easy(32, i)) if i > 4 else easy(32, i))
        found.append(f"{record.verdict.action.name} {record.verdict.reason}")
    return found


@pytest.mark.parametrize("interrupt", [3, 9])
def test_it_resumes_from_its_state_with_the_same_verdicts(interrupt: int) -> None:
    def build() -> Guard:
        return accuracy_monitor(easy(200, 900), max_drop=10.0)

    whole = run(build, None)
    assert run(build, interrupt) == whole
    assert whole[4].startswith("COMMIT")
    assert whole[-1].startswith("REJECT learning was stopped at step")


def test_a_state_of_a_probe_of_another_size_is_refused() -> None:
    guard = accuracy_monitor(easy(200, 900))
    subject = learner(guard)
    subject.step(easy(10, 0))
    with pytest.raises(CheckpointError, match="a probe of 200 samples, wanted 50"):
        accuracy_monitor(easy(50, 3)).load_state_dict(guard.state_dict())


def test_updates_without_a_loss_are_judged_too() -> None:
    guard = accuracy_monitor(easy(200, 900))
    good, bad = learner(Guard()).view(), learner(Guard(), rate=0.5)
    for i in range(30):
        bad.step(poison(easy(32, i)))
    updates = ClientUpdates(torch.zeros(2, 3), torch.ones(2))
    assert guard.gates[0](CandidateUpdate(0, updates, {}, None, good, good)).committed
    assert not guard.gates[0](CandidateUpdate(0, updates, {}, None, good, bad.view())).committed


def test_settings_out_of_range_are_errors() -> None:
    for settings in ({"max_drop": -1.0}, {"max_recall_drop": 101.0}, {"last_update": "maybe"}):
        with pytest.raises((SettingError, GuardError)):
            accuracy_monitor(easy(20), **settings)  # type: ignore[arg-type]
