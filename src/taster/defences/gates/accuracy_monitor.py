"""The monitor that poisoning of streams is set against: learning stops once the accuracy has fallen too far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.guard import CandidateUpdate, Guard
from taster.core.step_record import StepRecord
from taster.core.threat import countermeasure
from taster.core.verdict import COMMIT, Verdict, reject
from taster.core.view import View
from taster.defences.gates.probe_measurement import ProbeMeasurement, nonfinite
from taster.defences.gates.probe_source import ProbeSource
from taster.tasks import Classification
from taster.utils.setting_types import Points
from taster.utils.settings import validate_settings


@countermeasure(
    "test", "indiscriminate availability", note="With `max_recall_drop` it answers targeted availability too."
)
@validate_settings
def accuracy_monitor(
    probe: Batch,
    *,
    max_drop: Points = 5.0,
    max_recall_drop: Points | None = None,
    last_update: Literal["refuse", "keep"] = "refuse",
) -> Guard:
    """Measures the accuracy on trusted samples after each update, and stops the learning once it has fallen too far.

        acc(θ_0) − acc(θ_t + 1) > d        the update is refused, and with it every later one

    θ_0 is the model before the first step. As described, a fall ends the learning: every later update is refused until
    the owner has investigated and given the guard trusted data again (`Guard.set_trusted_data`); the model of that
    moment is the new θ_0.

    This is the plain monitor of the literature and no test: the fall is that of the measured accuracy, chance included,
    and always from the same beginning, so that what the model learns meanwhile may be lost again unseen. Poison that
    was committed before the fall stays, which is what the accumulative attack rests on: d is its budget.

    Args:
        probe: trusted samples.
        max_drop: d, in points. The papers give no number: phases that they call hidden cost 1.3 points (Pang et al.,
            Fig. 1) to 10.6 (Zhu et al., Table 1, without a defence).
        max_recall_drop: the same for the recall of each class: the accuracy on the trusted samples of that class. None:
            recall is not watched.
        last_update: what becomes of the update after which the fall is seen. "refuse" undoes it; "keep" leaves it, as a
            process in the background would, which sees the harm when it is done: what follows is refused. Both papers
            assume the latter, and measure attacks by what this one update costs.

    Raises:
        BatchError, LabelError: see `taster.core.trusted_data.check_trusted_data`.

    Source: Pang et al. 2021, Section 4 ("Poisoning target": a monitor of accuracy or recall); the "simple monitor based
        on accuracy" of Zhu et al. 2023, Appendix C.12.
    """
    gate = AccuracyMonitor(
        probe, max_drop=max_drop, max_recall_drop=max_recall_drop, keep_last_update=last_update == "keep"
    )
    return Guard(gates=[gate])


@dataclass(frozen=True)
class _Seen:
    """What a call found, for `observe` to remember: the reference, and the fall in words if there was one."""

    step: int
    reference: Tensor
    fall: str | None


class AccuracyMonitor:
    """The gate of `accuracy_monitor`.

    Args:
        probe, max_drop, max_recall_drop: as in `accuracy_monitor`.
        keep_last_update: whether the update after which a fall is seen stays.

    Attributes:
        stop_step: the step at which the learning was stopped; None while it goes on.
        stop_reason: what had fallen then, and by how much.
    """

    name = "accuracy_monitor"

    def __init__(self, probe: Batch, *, max_drop: float, max_recall_drop: float | None, keep_last_update: bool) -> None:
        self._measure = ProbeMeasurement(self.name, self._source(probe))
        self._max_drop = max_drop
        self._max_recall_drop = max_recall_drop
        self._keeps_last = keep_last_update
        self._reference: Tensor | None = None  # which trusted samples θ_0 classifies correctly
        self.stop_step: int | None = None
        self.stop_reason: str | None = None
        self._seen: _Seen | None = None

    def __call__(self, change: CandidateUpdate) -> Verdict:
        """Compares the accuracy after the update with that at the beginning."""
        earlier, self._seen = self._seen, None
        if self.stop_step is not None:
            return reject(
                f"learning was stopped at step {self.stop_step}, as {self.stop_reason}; look into it, then renew the "
                "guard's probe"
            )
        if change.attempt and earlier is not None and earlier.step == change.step and earlier.fall is not None:
            self._seen = earlier  # a fall stops the learning: no part of the batch is tried
            return reject(f"learning is stopped: {earlier.fall}")
        reference = self._of(change.before) if self._reference is None else self._reference
        fall = self._fall(reference, change.after)
        self._seen = _Seen(change.step, reference, fall)
        if fall is None:
            return COMMIT
        if self._keeps_last:
            return Verdict(reason=f"learning is stopped after this update: {fall}", stage=self.name)
        return reject(f"learning is stopped: {fall}")

    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers what the call found."""
        seen, self._seen = self._seen, None
        if seen is not None and seen.step == record.step:
            self._reference = seen.reference
            # An update that stays for this gate and that another one has refused has harmed nothing.
            if seen.fall is not None and (record.verdict.committed or not self._keeps_last):
                self.stop_step, self.stop_reason = record.step, seen.fall
        if self._reference is None:
            self._reference = self._of(view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the probe, and lets learning go on. The present model is the new reference."""
        self._measure.replace(self._source(probe))
        self._reference = self.stop_step = self.stop_reason = self._seen = None

    def check_model(self, view: View) -> None:
        """Checks that the model takes the probe and has an output for every label."""
        self._measure.check_model(view)

    def state_dict(self) -> dict[str, Any]:
        """The reference, and when and why the learning was stopped."""
        return {"reference": self._reference, "stop_step": self.stop_step, "stop_reason": self.stop_reason}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the reference, and whether the learning was stopped.

        Raises:
            CheckpointError: when the reference is of a probe of another size.
        """
        reference = state["reference"]
        self._measure.check_saved([] if reference is None else [{"correct": reference}])
        self._reference, self._seen = reference, None
        self.stop_step, self.stop_reason = state["stop_step"], state["stop_reason"]

    def _source(self, probe: Batch) -> ProbeSource:
        return ProbeSource(self.name, probe, Classification(), chunk=1000)

    def _of(self, view: View) -> Tensor:
        """Which trusted samples the model classifies correctly, [n]."""
        return self._measure.reference(view)["correct"]

    def _fall(self, reference: Tensor, view: View) -> str | None:
        """What has fallen too far, in words; None if nothing has."""
        measured = self._measure(view)
        bad = nonfinite(measured)
        if bad is not None:
            return f"after the update {bad}"
        correct = measured["correct"]
        before, after, n = int(reference.sum()), int(correct.sum()), len(correct)
        if 100 * (before - after) / n > self._max_drop:
            return _in_words("accuracy", before, after, n, self._max_drop)
        return None if self._max_recall_drop is None else self._recall_fall(reference, correct, self._max_recall_drop)

    def _recall_fall(self, reference: Tensor, correct: Tensor, limit: float) -> str | None:
        """The class whose recall has fallen the most, in words; None if none has fallen by more than the limit."""
        y = self._measure.source.classes()
        assert y is not None, "Classification has classes"
        classes = int(y.max()) + 1
        sizes, before, after = (
            torch.bincount(y[chosen], minlength=classes).cpu()
            for chosen in (torch.ones_like(correct), reference.to(y.device), correct)
        )
        falls = torch.where(sizes > 0, 100 * (before - after).double() / sizes.clamp(min=1), 0.0)
        worst = int(falls.argmax())
        if not float(falls[worst]) > limit:
            return None
        return _in_words(f"recall of class {worst}", int(before[worst]), int(after[worst]), int(sizes[worst]), limit)


def _in_words(what: str, before: int, after: int, n: int, limit: float) -> str:
    return (
        f"{what} on the probe fell from {100 * before / n:.1f} % at the beginning to {100 * after / n:.1f} %, by more "
        f"than {limit:g} points"
    )
