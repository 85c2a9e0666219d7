"""Whether trusted data have grown old: served data drift away from them, or refusals have used them up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from taster.core.host import to_host
from taster.core.step_record import StepRecord
from taster.core.types import Tensors

FIRST = 60
"""Groups of steps, from the time when the probe was taken, that later ones are compared with."""

RECENT = 30
"""The last groups, which are compared with them: fewer, as a guard with an old probe commits few."""

_GROUP = 50
"""Samples that a group has at least: the losses of single samples are too skewed to compare."""

_SURE = 3.0
"""Standard errors from which on a change is more than chance; the probe's own error counts in full, though both medians
share it."""

_LEAST = 0.15
"""Change of the relative gap from which on it matters: the ratio of the losses has changed by a third."""

_WIDENED = 2.0
"""Multiple of the detection bound without refusals from which on a probe is used up."""

_OFTEN = 1.25
"""Growth of the number of refusals after which the bound is computed again; that takes a while."""

_NORMAL = 1.6449
_MEDIAN = math.pi / 2
"""The variance of a median by that of a mean, of normal variables."""


class ProbeAge:
    """Compares what the stream's batches cost a model with what the probe costs it, now and when the probe was taken.

    The loss of a batch before it is learned and the mean loss on the probe have the same expectation for as long as
    both come from one world, however far the model has got. So their relative gap

        g = (stream − probe) / (stream + probe)

    stays where it was: at 0, or elsewhere where training differs from evaluation (dropout, augmentation). A probe is
    old where the median of g over the last thirty groups of steps has moved from that of the first sixty by more than
    0.15 and by more than three standard errors. The gap grows where the model does not follow the world, for example as
    a guard with an old probe does not let it; it falls where the model follows, and forgets what the probe shows.

    It is used up where refusals, which tell an attacker who sees them something of it, have doubled the drop that can
    pass unnoticed.

    Of a model that has only begun to learn the first groups are always the last sixty: what batch norm has recorded by
    then, for example, is not yet what evaluation needs, and the gap moves though nothing has changed.

    Only whole batches that were committed count, so that what is refused, an attack for example, ages no probe. A world
    that changes and costs the model as much as before passes unseen.

    Source: taster's own.
    """

    def __init__(self) -> None:
        self._first = torch.empty(0, 3, dtype=torch.float64)
        self._last = torch.empty(0, 3, dtype=torch.float64)
        self._sums = [0.0, 0.0, 0.0]  # samples, and by sample: stream loss, probe loss
        self._probe_loss: float | None = None  # before the next step
        self._reference: Tensors | None = None
        self._at_reference: tuple[float, float] = (0.0, 0.0)
        self._checks = self._refusals = 0
        self._next_look = 1  # at the bound: so many refusals
        self._drifted = self._used = ""

    @property
    def advice(self) -> str:
        """What there is to say; empty for nothing."""
        return "; ".join(filter(None, (self._drifted, self._used)))

    def observe(
        self, record: StepRecord, stage: str, reference: Tensors, gain: float | None, *, young: bool = False
    ) -> None:
        """Takes note of a step.

        Args:
            record: of the step.
            stage: the name of the gate.
            reference: what was measured of the anchor, with the loss of each trusted sample.
            gain: by how much the loss of the samples looked at after the step is lower than at the anchor; None where
                nothing was measured.
            young: whether the model has only begun to learn.
        """
        verdict, loss, known = record.verdict, record.loss, self._probe_loss
        refused = verdict.stage == stage
        self._checks += gain is not None or refused
        self._refusals += refused
        if "loss" in reference:
            self._loss_at(reference)
        whole = verdict.committed and not record.trusted and record.attempts <= 1 and not record.dropped
        if whole and loss is not None and known is not None and loss >= 0 and known >= 0:
            self._add(loss, known, record.samples, young)
        if verdict.committed and gain is not None and "loss" in reference:
            # What a look shows of some samples is set against the same samples at the anchor, of which all are known.
            self._probe_loss = self._loss_at(reference) - gain
        elif verdict.steps:
            self._probe_loss = None

    def observe_use(self, bound: Callable[[int, int], float]) -> None:
        """Looks whether refusals have used the probe up.

        Args:
            bound: of (checks, refusals): the drop that can pass unnoticed.
        """
        if self._used or self._refusals < self._next_look:
            return
        self._next_look = math.ceil(_OFTEN * (self._refusals + 1))
        checks = max(self._checks, self._refusals)
        first, now = bound(checks, 0), bound(checks, self._refusals)
        if now >= _WIDENED * first:
            self._used = (
                f"the probe is used up: {self._refusals} refusals in {checks} checks have told who sees them so much "
                f"of it that a drop of {now:.1f} points could pass in place of {first:.1f}. Renew it with new samples "
                "(taster.probe.renew, guard.set_trusted_data), and keep verdicts from those who send batches"
            )

    def state_dict(self) -> dict[str, Any]:
        """The losses of the first groups and the last ones, and what was said."""
        return {
            "first": self._first,
            "last": self._last,
            "sums": list(self._sums),
            "probe_loss": self._probe_loss,
            "checks": self._checks,
            "refusals": self._refusals,
            "next_look": self._next_look,
            "drifted": self._drifted,
            "used": self._used,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self._first, self._last, self._sums = state["first"].cpu(), state["last"].cpu(), list(state["sums"])
        self._probe_loss, self._drifted, self._used = state["probe_loss"], state["drifted"], state["used"]
        self._checks, self._refusals, self._next_look = state["checks"], state["refusals"], state["next_look"]
        self._reference = None

    def _add(self, loss: float, known: float, samples: int, young: bool) -> None:
        total, stream, probe = self._sums
        self._sums = [total + samples, stream + samples * loss, probe + samples * known]
        if self._sums[0] < _GROUP:
            return
        total, stream, probe = self._sums
        self._sums = [0.0, 0.0, 0.0]
        # The error of the probe's own mean, as a fraction: half of it is in g.
        mean, error = self._at_reference
        row = torch.tensor([[stream / total, probe / total, error / mean if mean > 0 else 0.0]], dtype=torch.float64)
        if young or len(self._first) < FIRST:
            self._first = torch.cat([self._first[-(FIRST - 1) :], row])
            return
        self._last = torch.cat([self._last[-(RECENT - 1) :], row])
        if len(self._last) == RECENT and not self._drifted:
            self._drifted = self._found()

    def _found(self) -> str:
        (then, then_error), (now, now_error) = _gap(self._first), _gap(self._last)
        error = math.hypot(then_error, now_error, float(self._last[-1, 2]) / 2)
        change = now - then
        if abs(change) <= max(_LEAST, _SURE * error):
            return ""
        before, after = (float(part[:, 0].median() / part[:, 1].median()) for part in (self._first, self._last))
        follows = (
            "follows the stream away from it, or knows the stream's samples by heart, if they come again and again"
            if change < 0
            else "no longer does on the stream as on the probe"
        )
        return (
            f"the probe has grown old: the stream's batches cost the model {after:.2g} times what the probe costs it, "
            f"{before:.2g} times when it was taken, so that the model {follows}. If the stream is honest and new, "
            "renew the probe with new samples (taster.probe.renew, guard.set_trusted_data); if not, look at what was "
            "learned"
        )

    def _loss_at(self, reference: Tensors) -> float:
        if self._reference is not reference:
            losses = reference["loss"].double()
            mean, deviation = to_host(losses.mean(), losses.std())
            self._reference, self._at_reference = reference, (mean, deviation / math.sqrt(len(losses)))
        return self._at_reference[0]


def _gap(groups: Tensor) -> tuple[float, float]:
    """The median relative gap of groups, and its standard error."""
    stream, probe = groups[:, 0], groups[:, 1]
    gaps = torch.nan_to_num((stream - probe) / (stream + probe))
    centre = gaps.median()
    scale = float(torch.quantile((gaps - centre).abs(), 0.9)) / _NORMAL
    return float(centre), scale * math.sqrt(_MEDIAN / len(gaps))
