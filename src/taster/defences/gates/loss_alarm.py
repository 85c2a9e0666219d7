"""An alarm on the loss: warnings where it is unusually great, a look at the accuracy after enough of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.core.guard import CandidateUpdate, Guard
from taster.core.types import COMMIT, Batch, StepRecord, Verdict, reject, rewind
from taster.core.view import View
from taster.defences.rows import check_rows
from taster.errors import GuardError
from taster.stats.paired_tests import mcnemar_pvalue
from taster.utils.settings import validate_settings

Granularity = Literal["batch", "sample"]

_DRAWS = 1000
"""Clean batches that the losses of trusted samples are put together to, for the threshold of a batch's loss."""


@validate_settings
def loss_alarm(
    probe: Batch,
    generator: torch.Generator,
    *,
    granularity: Granularity = "batch",
    loss_threshold: float | None = None,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.99,
    max_warnings: Annotated[int, Field(ge=0)] | None = None,
    expected_check_interval: Annotated[int, Field(ge=1)] = 100,
    tolerance: Annotated[float, Field(ge=0, le=100)] = 1.0,
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    max_rewind: Annotated[int, Field(ge=0)] = 0,
    on_alarm: Literal["stop", "continue"] = "stop",
) -> Guard:
    """Counts data whose loss is unusually great, and after enough of them looks whether trusted samples are harmed.

        L > L_th               a warning, R_w ← R_w + 1; the update is committed
        R_w > W_th             the accuracy on trusted samples after the update is looked at
            it is abnormal     the alarm: the update is undone, and the `back` steps before it
            it is not          all clear, R_w ← 0; the update is committed

    As printed, the alarm ends the learning: every later update is refused until the owner has looked, and has given the
    guard a probe anew (`Guard.set_trusted_data`), which clears alarm and warnings. Abnormal is an accuracy for which McNemar's
    paired test (`taster.stats.paired_tests`) says, that it has fallen by more than the tolerance below the best that was found at
    the start or at a clear. Poison committed while warnings were counted stays, unless `back` reaches it; where a
    single poisoned sample is enough, W_th has to be 0.

    Args:
        probe: trusted samples, which L_th is estimated on and the accuracy looked at.
        generator: puts clean batches together.
        datum: what is warned of: "batch", by the step's own loss, which costs nothing but is taken as the model trains,
            with batch norm and dropout on; or "sample", by each sample's, which costs a forward pass.
        loss_threshold: L_th; None takes a quantile of clean data: of as many trusted samples a batch as come in, by the
            model at the start, and anew at each clear: a model that was not looked at may be one that is harmed, which
            would raise it.
        quantile: for an estimated L_th.
        warnings: W_th; None takes as many as clean data give in `check_every` data, less one and at least 0.
        check_every: see there: about so many clean data are between two looks at the accuracy.
        tolerance: fall of the accuracy that is let pass, in points.
        level: chance, at a look, of an alarm over a fall of as much.
        back: steps that an alarm undoes besides the one at hand; the learner needs a History that reaches so far.
        after: "stop" as above; "continue" clears the warnings after an alarm and goes on.

    Raises (when called):
        GuardError: for updates without a loss, as in federated learning.

    Source: Yang et al. 2017, Algorithm 3; the thresholds' estimates and the test are ours.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    least = max(0, round((1 - quantile) * expected_check_interval) - 1) if max_warnings is None else max_warnings
    gate = LossAlarm(probe, seed, granularity, loss_threshold, quantile, least, tolerance, alpha, max_rewind, on_alarm)
    return Guard(gates=[gate])


@dataclass(frozen=True)
class _Seen:
    """What a call found, for `observe` to take up: the step, its warnings, and the look where one was had."""

    step: int
    warnings: int
    losses: Tensor | None
    start: Tensor | None
    right: Tensor | None = None
    alarm: bool = False


class LossAlarm:
    """The gate of `loss_alarm`.

    Attributes:
        warnings: R_w.
        alarm: the step of the alarm that stands; None while there is none.
        alarms: how many there have been.
        looks: how often the accuracy was looked at.
    """

    name = "loss_alarm"

    def __init__(
        self,
        probe: Batch,
        seed: int,
        granularity: Granularity,
        loss_threshold: float | None,
        quantile: float,
        max_warnings: int,
        tolerance: float,
        level: float,
        back: int,
        after: Literal["stop", "continue"],
    ) -> None:
        self._probe = probe
        self._seed = seed
        self._granularity = granularity
        self._fixed = loss_threshold
        self._quantile = quantile
        self.max_warnings = max_warnings
        self._tolerance = tolerance
        self._alpha = level
        self.max_rewind = back
        self._stops = after == "stop"
        self.warnings = self.alarm_count = self.check_count = 0
        self.alarm_step: int | None = None
        self._losses: Tensor | None = None  # of the probe's samples, when they were last estimated
        self._reference: Tensor | None = None  # which of them the best accepted model has right
        self._seen: _Seen | None = None

    def threshold(self, samples: int, view: View) -> float:
        """L_th for a datum of so many samples; by the last estimate, or one made of this view where there is none."""
        return self._threshold(samples, self._clean_losses(view))

    def _threshold(self, samples: int, losses: Tensor | None) -> float:
        if losses is None:
            assert self._fixed is not None
            return self._fixed
        if samples > 1:
            draw = torch.Generator().manual_seed(self._seed)  # the same batches for the same losses, whoever asks
            drawn = torch.randint(len(losses), (_DRAWS, samples), generator=draw)
            losses = losses[drawn.to(losses.device)].mean(1)
        return float(torch.quantile(losses, self._quantile, interpolation="higher"))

    def __call__(self, change: CandidateUpdate) -> Verdict:
        """Counts, and looks where it is time."""
        if self.alarm_step is not None and self._stops:
            self._seen = None
            return reject(f"the alarm of step {self.alarm_step} stands; look into it, then renew the guard's probe")
        if change.loss is None or not isinstance(change.batch, Batch):
            raise GuardError(
                "loss_alarm: got an update without a loss, as in federated learning; wanted batches (probe_gate judges "
                "updates of any kind)"
            )
        losses = self._clean_losses(change.before)
        new = self._new_warnings(change.batch, change.loss, change.before, losses)
        start = self._right(change.before) if self._reference is None else None
        self._seen = _Seen(change.step, new, losses, start)
        if self.warnings + new <= self.max_warnings:
            return COMMIT
        reference, right = start if self._reference is None else self._reference, self._right(change.after)
        assert reference is not None
        p = mcnemar_pvalue(reference, right, self._tolerance / 100)
        alarm = p < self._alpha
        self._seen = _Seen(change.step, new, losses, start, right, alarm)
        if not alarm:
            return COMMIT
        fall = 100 * float(reference.float().mean() - right.float().mean())
        reason = (
            f"alarm: after {self.warnings + new} warnings of an unusual loss, accuracy on the probe would have fallen "
            f"by {fall:.1f} points: more than {self._tolerance:g} (p = {p:.1g})"
        )
        past = change.before.snapshot_steps
        steps = min(self.max_rewind, change.step - past[0]) if past else 0
        return rewind(steps, reason) if steps > 0 else reject(reason)

    def observe(self, record: StepRecord, view: View) -> None:
        """Takes up what the call found."""
        seen, self._seen = self._seen, None
        if seen is not None and seen.step == record.step:
            self._take(seen, record)
        if self._reference is None:
            self._reference = self._right(view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up another probe, or the same; clears alarm and warnings. The model as it is is the new reference."""
        self._probe = probe
        self.warnings, self.alarm_step = 0, None
        self._losses = self._reference = self._seen = None

    def state_dict(self) -> dict[str, Any]:
        """Counts, the alarm, the last estimate and the reference."""
        return {
            "warnings": self.warnings,
            "alarm_step": self.alarm_step,
            "alarm_count": self.alarm_count,
            "check_count": self.check_count,
            "losses": self._losses,
            "reference": self._reference,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the same.

        Raises:
            CheckpointError: when they are of a probe of another size.
        """
        check_rows((kept for kept in (state["losses"], state["reference"]) if kept is not None), self._probe)
        self.warnings, self.alarm_step = state["warnings"], state["alarm_step"]
        self.alarm_count, self.check_count = state["alarm_count"], state["check_count"]
        self._losses, self._reference, self._seen = state["losses"], state["reference"], None

    def _new_warnings(self, batch: Batch, loss: float, view: View, clean: Tensor | None) -> int:
        if self._granularity == "batch":
            return int(loss > self._threshold(len(batch), clean))
        with torch.no_grad():
            losses = view.sample_losses(batch.x, batch.y)
        return int((losses > self._threshold(1, clean)).sum())

    def _take(self, seen: _Seen, record: StepRecord) -> None:
        if self._reference is None:
            self._reference = seen.start
        self._losses = seen.losses
        self.warnings += seen.warnings
        if seen.right is None:
            return
        self.check_count += 1
        if seen.alarm:
            self.alarm_count += 1
            self.alarm_step = record.step
            self.warnings = self.warnings if self._stops else 0
        elif record.verdict.committed:
            self.warnings = 0
            assert self._reference is not None
            if int(seen.right.sum()) > int(self._reference.sum()):
                self._reference = seen.right
            self._losses = None  # estimated anew of the model as it is now, which is known to be good

    def _clean_losses(self, view: View) -> Tensor | None:
        """What the threshold is estimated on, [n], of this view where there is none yet; None where it is given."""
        if self._fixed is not None or self._losses is not None:
            return self._losses
        return view.losses(view.outputs(self._probe.x), self._probe.y)

    def _right(self, view: View) -> Tensor:
        return view.outputs(self._probe.x).argmax(1) == self._probe.y
