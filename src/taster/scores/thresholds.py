"""Thresholds of scores: fixed, growing with the steps, or estimated as a quantile."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Protocol

import torch

from taster.core.batch import Batch
from taster.core.view import View
from taster.errors import GuardError
from taster.scores.base import PeriodicFit, Score


class Threshold(Protocol):
    """The value above which a score counts as suspicious."""

    def __call__(self, view: View, /) -> float:
        """The threshold for the model in the view."""
        ...


class LinearThreshold:
    """P = P₀ + Δ · m after m steps; constant if Δ is 0.

    Args:
        start: P₀.
        growth: Δ.

    Source: Zhu et al. 2023, Section 4.1 ("Threshold adjustment").
    """

    def __init__(self, start: float, growth: float = 0.0) -> None:
        self.start = start
        self.growth = growth

    def __call__(self, view: View) -> float:
        """P₀ + Δ · m."""
        return self.start + self.growth * view.step


class QuantileThreshold(PeriodicFit[float]):
    """A quantile of the score over trusted samples, estimated every `refit_every` steps.

    It follows the score's scale and needs no tuning: a fraction of about 1 − q of clean samples lies above it.

    Args:
        score: the score.
        clean: trusted samples.
        quantile: q, from 0 to 1.
        refit_every: steps between estimates.

    Raises:
        GuardError: for a quantile outside 0 to 1, or an interval under 1.

    Source: Zhu et al. 2023, Appendix C.9, estimates P₀ and Δ on clean samples; estimating a quantile, repeatedly while
        the model learns, is taster's own.
    """

    def __init__(self, score: Score, clean: Batch, quantile: float = 0.75, refit_every: int = 10) -> None:
        if not 0 <= quantile <= 1:
            raise GuardError(f"threshold: got quantile {quantile}, wanted 0 to 1")
        super().__init__("threshold", clean, refit_every)
        self._score = score
        self._quantile = quantile

    def __call__(self, view: View) -> float:
        """The last estimate; before the first step, one of the model in the view."""
        return self.fitted(view)

    def _fit(self, view: View) -> float:
        with torch.no_grad():
            scores = self._score(self._clean, view)
        # Interpolating between two scores would fail where one of them is infinite.
        return float(torch.quantile(scores.float(), self._quantile, interpolation="higher"))


class RecentQuantile:
    """A quantile of the last values that were observed; infinite during the warm-up.

    Args:
        quantile: q, from 0 to 1.
        window: how many values are kept.
        warmup_steps: how many values must be there before the quantile is finite.
    """

    def __init__(self, quantile: float, window: int, warmup_steps: int) -> None:
        self._quantile = quantile
        self._warmup_steps = warmup_steps
        self.values: deque[float] = deque(maxlen=window)

    def __call__(self, view: View) -> float:  # noqa: ARG002 (the protocol of a threshold)
        """The quantile."""
        if len(self.values) < self._warmup_steps:
            return math.inf
        return float(torch.quantile(torch.tensor(list(self.values)), self._quantile))

    def append(self, value: float) -> None:
        """Adds a value, in place of the oldest if the window is full; values that are not finite are left out."""
        if math.isfinite(value):
            self.values.append(value)

    def clear(self) -> None:
        """Forgets all values: the warm-up begins again."""
        self.values.clear()

    def state_dict(self) -> dict[str, Any]:
        """The values, oldest first."""
        return {"values": list(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the values."""
        self.values.clear()
        self.values.extend(state["values"])


def make_threshold(
    score: Score, clean: Batch, start: float | None, growth: float, quantile: float, refit_every: int
) -> Threshold:
    """`LinearThreshold` if a start is given, else `QuantileThreshold`."""
    if start is None:
        return QuantileThreshold(score, clean, quantile, refit_every)
    return LinearThreshold(start, growth)
