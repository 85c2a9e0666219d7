"""An alarm on the loss: warnings when it is unusually high, a check of the accuracy after enough of them."""

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
from taster.defences.gates.probe_measurement import ProbeMeasurement
from taster.defences.gates.probe_source import ProbeSource
from taster.defences.gates.undo import undo
from taster.errors import GuardError
from taster.stats.paired_tests import mcnemar_pvalue
from taster.tasks import Classification
from taster.utils.setting_types import Alpha, Count, Points, PositiveCount, Quantile
from taster.utils.settings import validate_settings

Granularity = Literal["batch", "sample"]

_DRAWS = 1000
"""Clean batches put together from trusted samples, for the threshold of a batch's loss."""


@countermeasure("test", "indiscriminate availability")
@validate_settings
def loss_alarm(
    probe: Batch,
    generator: torch.Generator,
    *,
    granularity: Granularity = "batch",
    loss_threshold: float | None = None,
    quantile: Quantile = 0.99,
    max_warnings: Count | None = None,
    expected_check_interval: PositiveCount = 100,
    tolerance: Points = 1.0,
    alpha: Alpha = 0.05,
    max_rewind: Count = 0,
    on_alarm: Literal["stop", "continue"] = "stop",
) -> Guard:
    """Counts batches (or samples) with an unusually high loss, and after enough of them checks the accuracy on trusted
    samples.

        L > L_th               a warning, R_w ← R_w + 1; the update is committed
        R_w > W_th             the accuracy on trusted samples after the update is checked
            it is abnormal     the alarm: the update is undone, and up to `max_rewind` steps before it
            it is not          all clear, R_w ← 0; the update is committed

    As published, the alarm ends the learning: every later update is refused until the owner has investigated and given
    the guard trusted data again (`Guard.set_trusted_data`), which clears alarm and warnings. Accuracy is abnormal if
    McNemar's paired test (`taster.stats.paired_tests`) finds that it has dropped by more than the tolerance below the
    anchor, the best of the state at the start and of those at an all-clear. Poison committed while warnings were
    counted stays, unless `max_rewind` reaches it; if a single poisoned sample is enough, W_th must be 0.

    Args:
        probe: trusted samples, on which L_th is estimated and the accuracy checked.
        generator: puts clean batches together.
        granularity: "batch" counts by the step's own loss, which costs nothing but is computed in training mode, with
            batch norm and dropout on; "sample" by the loss of each sample, which costs a forward pass.
        loss_threshold: L_th; None takes a quantile over clean data, of batches as large as the incoming one, by the
            model at the start and again at each all-clear: a model that was not checked may have been harmed, which
            would raise it.
        quantile: for an estimated L_th.
        max_warnings: W_th; None takes the number that `expected_check_interval` clean batches (or samples) are expected
            to cause, less one and at least 0.
        expected_check_interval: clean batches (or samples) between two checks of the accuracy, on average.
        tolerance: drop of the accuracy that is let through, in points.
        alpha: probability, at a check, of an alarm over a drop of that size.
        max_rewind: steps that an alarm undoes before the present one; the learner's snapshots must reach that far.
        on_alarm: "stop" as above; "continue" clears the warnings after an alarm and goes on.

    Raises:
        BatchError, LabelError: see `taster.core.trusted_data.check_trusted_data`.
        GuardError (when called): for updates without a loss, as in federated learning.

    Source: Yang et al. 2017, Algorithm 3; the estimates of the thresholds and the test are taster's own.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    if max_warnings is None:
        max_warnings = max(0, round((1 - quantile) * expected_check_interval) - 1)
    threshold = LossThreshold(loss_threshold, quantile, seed)
    gate = LossAlarm(
        probe,
        threshold,
        granularity=granularity,
        max_warnings=max_warnings,
        tolerance=tolerance,
        alpha=alpha,
        max_rewind=max_rewind,
        stop_on_alarm=on_alarm == "stop",
    )
    return Guard(gates=[gate])


@dataclass(frozen=True)
class LossThreshold:
    """L_th.

    Attributes:
        fixed: the threshold itself; None estimates it.
        quantile: of the losses of clean batches.
        seed: puts the clean batches together.
    """

    fixed: float | None
    quantile: float
    seed: int

    def __call__(self, samples: int, clean_losses: Tensor | None) -> float:
        """The threshold for a batch of this many samples, from the losses of clean samples [n]; None if it is fixed."""
        if clean_losses is None:
            assert self.fixed is not None
            return self.fixed
        losses = clean_losses
        if samples > 1:
            draw = torch.Generator().manual_seed(self.seed)  # the same batches for the same losses, at every call
            drawn = torch.randint(len(losses), (_DRAWS, samples), generator=draw)
            losses = losses[drawn.to(losses.device)].mean(1)
        return float(torch.quantile(losses, self.quantile, interpolation="higher"))


@dataclass(frozen=True)
class _Judged:
    """What a call found, for `observe` to remember: warnings, and the checked accuracy if there was a check."""

    step: int
    warnings: int
    clean_losses: Tensor | None
    anchor: Tensor
    checked: Tensor | None = None
    alarm: bool = False


class LossAlarm:
    """The gate of `loss_alarm`.

    Args:
        probe: trusted samples.
        threshold: L_th.
        granularity, max_warnings, tolerance, alpha, max_rewind: as in `loss_alarm`.
        stop_on_alarm: whether an alarm ends the learning.

    Attributes:
        warnings: R_w.
        alarm_step: the step of the alarm in force; None if there is none.
        alarm_count: alarms so far.
        check_count: checks of the accuracy so far.
    """

    name = "loss_alarm"

    def __init__(
        self,
        probe: Batch,
        threshold: LossThreshold,
        *,
        granularity: Granularity,
        max_warnings: int,
        tolerance: float,
        alpha: float,
        max_rewind: int,
        stop_on_alarm: bool,
    ) -> None:
        self._measure = ProbeMeasurement(self.name, self._source(probe))
        self._threshold = threshold
        self._granularity = granularity
        self.max_warnings = max_warnings
        self._tolerance = tolerance
        self._alpha = alpha
        self.max_rewind = max_rewind
        self._stops = stop_on_alarm
        self.warnings: int = 0
        self.alarm_count: int = 0
        self.check_count: int = 0
        self.alarm_step: int | None = None
        self._clean_losses: Tensor | None = None  # at the start or at the last all-clear
        self._anchor: Tensor | None = None  # which trusted samples the best accepted model classifies correctly
        self._judged: _Judged | None = None

    def threshold(self, samples: int, view: View) -> float:
        """L_th for a batch of this many samples; by the model in the view, if there is no estimate yet."""
        return self._threshold(samples, self._losses(view))

    def __call__(self, change: CandidateUpdate) -> Verdict:
        """Counts warnings, and checks the accuracy after too many of them."""
        self._judged = None
        if self.alarm_step is not None and self._stops:
            return reject(f"the alarm of step {self.alarm_step} stands; look into it, then renew the guard's probe")
        if change.loss is None or not isinstance(change.batch, Batch):
            raise GuardError(
                "loss_alarm: got an update without a loss, as in federated learning; wanted batches (probe_gate judges "
                "updates of any kind)"
            )
        clean_losses = self._losses(change.before)
        anchor = self._measure(change.before)["correct"] if self._anchor is None else self._anchor
        new = self._new_warnings(change.batch, change.loss, change.before, clean_losses)
        warnings = self.warnings + new
        if warnings <= self.max_warnings:
            self._judged = _Judged(change.step, new, clean_losses, anchor)
            return COMMIT
        correct = self._measure(change.after)["correct"]
        p = mcnemar_pvalue(anchor, correct, self._tolerance / 100)
        alarm = p < self._alpha
        self._judged = _Judged(change.step, new, clean_losses, anchor, correct, alarm)
        if not alarm:
            return COMMIT
        drop = 100 * float(anchor.float().mean() - correct.float().mean())
        reason = (
            f"alarm: after {warnings} warnings of an unusual loss, accuracy on the probe would have fallen "
            f"by {drop:.1f} points: more than {self._tolerance:g} (p = {p:.1g})"
        )
        return undo(change, change.step - self.max_rewind, reason)

    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers what the call found."""
        judged, self._judged = self._judged, None
        if judged is not None and judged.step == record.step:
            self._remember(judged, record)
        if self._anchor is None:
            self._anchor = self._measure(view)["correct"]

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the probe; clears alarm and warnings. The present model is the new anchor."""
        self._measure.replace(self._source(probe))
        self.warnings, self.alarm_step = 0, None
        self._clean_losses = self._anchor = self._judged = None

    def _source(self, probe: Batch) -> ProbeSource:
        return ProbeSource(self.name, probe, Classification(), chunk=1000)

    def check_model(self, view: View) -> None:
        """Checks that the model takes the probe and has an output for every label."""
        self._measure.check_model(view)

    def state_dict(self) -> dict[str, Any]:
        """Counts, the alarm, the last estimate and the anchor."""
        return {
            "warnings": self.warnings,
            "alarm_step": self.alarm_step,
            "alarm_count": self.alarm_count,
            "check_count": self.check_count,
            "clean_losses": self._clean_losses,
            "anchor": self._anchor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores counts, alarm, estimate and anchor.

        Raises:
            CheckpointError: when they are of a probe of another size.
        """
        self._measure.check_saved(
            {"loss": kept} for kept in (state["clean_losses"], state["anchor"]) if kept is not None
        )
        self.warnings, self.alarm_step = state["warnings"], state["alarm_step"]
        self.alarm_count, self.check_count = state["alarm_count"], state["check_count"]
        self._clean_losses, self._anchor, self._judged = state["clean_losses"], state["anchor"], None

    def _new_warnings(self, batch: Batch, loss: float, view: View, clean_losses: Tensor | None) -> int:
        # Comparisons with NaN are false: what is not at most the threshold is a warning.
        if self._granularity == "batch":
            return int(not loss <= self._threshold(len(batch), clean_losses))
        with torch.no_grad():
            losses = view.sample_losses(batch)
        return int((~(losses <= self._threshold(1, clean_losses))).sum())

    def _remember(self, judged: _Judged, record: StepRecord) -> None:
        if self._anchor is None:
            self._anchor = judged.anchor
        self._clean_losses = judged.clean_losses
        self.warnings += judged.warnings
        if judged.checked is None:
            return
        self.check_count += 1
        if judged.alarm:
            self.alarm_count += 1
            self.alarm_step = record.step
            self.warnings = self.warnings if self._stops else 0
        elif record.verdict.committed:
            self.warnings = 0
            if int(judged.checked.sum()) > int(self._anchor.sum()):
                self._anchor = judged.checked
            self._clean_losses = None  # estimated again from the present model, which is known to be good

    def _losses(self, view: View) -> Tensor | None:
        """The clean losses that the threshold is estimated from: the last ones, or those of the model in the view; None
        for a fixed threshold."""
        if self._threshold.fixed is not None:
            return None
        return self._measure(view)["loss"] if self._clean_losses is None else self._clean_losses
