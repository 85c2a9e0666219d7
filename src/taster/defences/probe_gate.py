"""A gate on trusted data: an update that costs accuracy on it is undone."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from taster.guard import Change, Guard
from taster.settings import checked
from taster.types import COMMIT, Batch, StepRecord, Verdict, reject
from taster.view import View


@checked
def probe_gate(probe: Batch, *, tolerance: Annotated[float, Field(ge=0, le=100)] = 2.0) -> Guard:
    """Refuses an update after which accuracy on a trusted probe lies more than a tolerance under its high-water mark.

    The mark is the best accuracy seen after any committed update, so that many small losses cannot add up to more than
    the tolerance.

    Args:
        probe: labelled samples that nobody else can write to; the more there are, the smaller the tolerance can be. One
            sample of n weighs 100 / n points.
        tolerance: in points.

    Source: taster's own; rejection on a validation set goes back to Nelson et al. 2008 ("reject on negative impact").
    """
    return Guard(gates=[ProbeGate(probe, tolerance)])


class ProbeGate:
    """The gate of `probe_gate`, with its high-water mark."""

    name = "probe_gate"

    def __init__(self, probe: Batch, tolerance: float) -> None:
        self._probe = probe
        self._tolerance = tolerance
        self._mark: float | None = None
        # The last accuracy measured, and of which state: saves measuring it again in `observe`.
        self._measured: tuple[object, float] | None = None

    def __call__(self, change: Change) -> Verdict:
        """Measures the probe after the update."""
        mark = self._accuracy(change.before) if self._mark is None else self._mark
        after = self._accuracy(change.after)
        if after >= mark - self._tolerance:
            return COMMIT
        return reject(
            f"accuracy on the probe would be {after:.1f} %, {mark - after:.1f} points under its best of {mark:.1f} % "
            f"(tolerance {self._tolerance:g})"
        )

    def observe(self, record: StepRecord, view: View) -> None:
        """Raises the mark where the model has got better."""
        if self._mark is None or record.verdict.committed:
            self._mark = max(self._mark or 0.0, self._accuracy(view))

    def state_dict(self) -> dict[str, Any]:
        """The high-water mark, in points."""
        return {"mark": self._mark}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the high-water mark."""
        self._mark = state["mark"]

    def _accuracy(self, view: View) -> float:
        if self._measured is None or self._measured[0] is not view.moment:
            self._measured = (view.moment, view.accuracy(self._probe.x, self._probe.y))
        return self._measured[1]
