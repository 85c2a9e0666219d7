"""Scores measure how suspicious each sample is; thresholds say from where on a score counts. Neither decides."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from taster.core.guard import Stateful, UsesTrustedData
from taster.core.types import Batch, StepRecord
from taster.core.view import View
from taster.errors import GuardError


class Score(Protocol):
    """Measures each sample of a batch."""

    def __call__(self, batch: Batch, view: View, /) -> Tensor:
        """One number a sample, [n]; higher is more suspicious."""
        ...


class Threshold(Protocol):
    """From where on a score counts."""

    def __call__(self, view: View, /) -> float:
        """At the moment of the view."""
        ...


class LinearThreshold:
    """P = P₀ + Δ · m after m steps; fixed where Δ is 0.

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


class QuantileThreshold:
    """A quantile of the score over trusted clean samples, estimated anew after every so many steps.

    It goes with whatever the score compares the model to, and needs no tuning: about 1 − q of clean samples lie above.

    Args:
        score: the score.
        clean: samples that nobody else can write to.
        quantile: q, from 0 to 1.
        every: steps between estimates.

    Raises:
        GuardError: for a quantile outside 0 to 1, or an interval under 1.

    Source: Zhu et al. 2023, Appendix C.9, estimates P₀ and Δ on clean samples; that it is done by a quantile, and goes
        on while the model learns, is ours.
    """

    def __init__(self, score: Score, clean: Batch, quantile: float = 0.75, refit_every: int = 10) -> None:
        if not 0 <= quantile <= 1 or refit_every < 1:
            raise GuardError(f"got quantile {quantile} and refit_every {refit_every}, wanted 0 to 1 and at least 1")
        self._score = score
        self._clean = clean
        self._quantile = quantile
        self._every = refit_every
        self._value: float | None = None

    def __call__(self, view: View) -> float:
        """The last estimate; before the first step, one made here."""
        return self._estimate(view) if self._value is None else self._value

    def observe(self, record: StepRecord, view: View) -> None:
        """Estimates anew when it is time."""
        if self._value is None or (record.step + 1) % self._every == 0:
            self._value = self._estimate(view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up other clean samples."""
        self._clean, self._value = probe, None

    def state_dict(self) -> dict[str, Any]:
        """The last estimate."""
        return {"value": self._value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the last estimate."""
        self._value = state["value"]

    def _estimate(self, view: View) -> float:
        with torch.no_grad():
            scores = self._score(self._clean, view)
        # Not between two scores, of which one may be infinite.
        return float(torch.quantile(scores.float(), self._quantile, interpolation="higher"))


def make_threshold(
    score: Score, clean: Batch, start: float | None, growth: float, quantile: float, every: int
) -> Threshold:
    """`Growing` where it is given by a number, else `CleanQuantile`."""
    return QuantileThreshold(score, clean, quantile, every) if start is None else LinearThreshold(start, growth)


def split_in_half(batch: Batch) -> tuple[Batch, Batch]:
    """What something is fitted to and what it is tried on: two halves; twice the same where there is one sample."""
    half = max(len(batch) // 2, 1)
    return Batch(batch.x[:half], batch.y[:half]), Batch(batch.x[-half:], batch.y[-half:])


class ScoreThresholdStage:
    """What stages that compare a score with a threshold share: whatever state these two keep.

    Args:
        score: how suspicious each sample is.
        threshold: from where on it counts.
    """

    def __init__(self, score: Score, threshold: Threshold) -> None:
        self.score = score
        self.threshold = threshold

    def observe(self, record: StepRecord, view: View) -> None:
        """Passes it on; to the score first, as a threshold may be estimated by it."""
        for part in self._parts().values():
            part.observe(record, view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Passes other clean samples on, half to each where score and threshold both want some."""
        parts = [part for part in (self.score, self.threshold) if isinstance(part, UsesTrustedData)]
        for part, clean in zip(parts, split_in_half(probe) if len(parts) == 2 else (probe,), strict=False):
            part.set_trusted_data(clean)

    def state_dict(self) -> dict[str, Any]:
        """That of score and threshold, where they keep any."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The same."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Stateful]:
        parts = {"score": self.score, "threshold": self.threshold}
        return {name: part for name, part in parts.items() if isinstance(part, Stateful)}
