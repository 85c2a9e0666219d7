"""Discrepancy-aware gradient clipping: only updates after which the model would disagree with its past are clipped."""

from __future__ import annotations

from collections import deque
from typing import Annotated, Any

import torch
from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import Batch, StepRecord, Tensors
from taster.core.view import View
from taster.defences.transforms.clipping import clip_gradient
from taster.perturbations.pgd import Norm
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.utils.settings import validate_settings


@validate_settings
def dagc(
    probe: Batch,
    *,
    reference_model: str | Annotated[int, Field(ge=1)],
    learning_rate: Annotated[float, Field(gt=0)],
    max_norm: Annotated[float, Field(gt=0)] = 1.0,
    norm: Norm = "l2",
    divergence: Divergence = "kl",
    threshold: float | None = None,
    threshold_growth: float = 0.0,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.75,
    window: Annotated[int, Field(ge=1)] = 100,
    warmup_steps: Annotated[int, Field(ge=1)] = 3,
    probe_samples: Annotated[int, Field(ge=1)] = 100,
) -> Guard:
    """Scales a gradient down to the bound where it would make trusted samples stranger to the past model than usual.

        g ← g · min(1, η / ‖g‖) where mean over the probe of D(x; θ_{t−k}, θ_t − β g) > P, else as it is

    The paper gives no formula for its setting, where the server has no samples of its clients; that the discrepancy is
    taken on trusted samples, of the model as the update would leave it, is ours.

    Args:
        probe: trusted samples.
        against: the earlier model; see `taster.scores.memorization_discrepancy.MemorizationDiscrepancy`.
        learning_rate: β, with which the update is looked ahead to.
        bound: η.
        norm: of the bound.
        divergence: "kl" or "js".
        threshold: P₀ of P = P₀ + Δ·m after m steps; None takes a quantile of what was found at recent steps, which is
            taken from what was applied, so that an update that is clipped does not raise it as much as it would have.
        growth: Δ.
        quantile: of recent discrepancies, for a P that is estimated.
        window: steps looked back to.
        least: steps that are seen before anything is clipped, for a P that is estimated.
        samples: of the probe that are used, the first so many.

    Source: Zhu et al. 2023, Appendix C.10 ("Discrepancy-aware Gradient Clipping").
    """
    score = MemorizationDiscrepancy(reference_model, divergence)
    own = Batch(probe.x[:probe_samples], probe.y[:probe_samples])
    stage = DiscrepancyAwareClipping(own, score, learning_rate, max_norm, norm, threshold, threshold_growth)
    stage.quantile, stage.least, stage.recent = quantile, warmup_steps, deque(maxlen=window)
    return Guard(transforms=[stage])


class DiscrepancyAwareClipping:
    """The transform of `dagc`, with the discrepancies that it remembers."""

    name = "dagc"

    def __init__(
        self,
        probe: Batch,
        score: MemorizationDiscrepancy,
        learning_rate: float,
        bound: float,
        norm: Norm,
        threshold: float | None,
        growth: float,
    ) -> None:
        self._probe = probe
        self._score = score
        self._rate = learning_rate
        self._bound = bound
        self._norm: Norm = norm
        self._threshold = threshold
        self._growth = growth
        self.quantile = 0.75
        self.least = 3
        self.recent: deque[float] = deque(maxlen=100)

    def __call__(self, gradient: Tensors, view: View) -> Tensors:
        """The gradient, clipped where the model would become strange to its past."""
        bound = self._limit(view)
        return clip_gradient(gradient, self._bound, self._norm) if self.ahead(gradient, view) > bound else gradient

    @torch.no_grad()
    def ahead(self, gradient: Tensors, view: View) -> float:
        """The probe's mean discrepancy as a plain step along this gradient would leave it, in nats."""
        params = {name: view.params[name] - self._rate * value for name, value in gradient.items()}
        past = view.steps_ago(self._score.reference_model).forward(self._probe.x)
        return float(self._score.from_logits(past, view.forward(self._probe.x, params=params)).mean())

    @torch.no_grad()
    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers the discrepancy after a step that was made."""
        if record.verdict.committed and self._threshold is None:
            self.recent.append(float(self._score(self._probe, view).mean()))

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up other trusted samples, as many."""
        count = len(self._probe)
        self._probe = Batch(probe.x[:count], probe.y[:count])
        self.recent.clear()

    def state_dict(self) -> dict[str, Any]:
        """The discrepancies, oldest first."""
        return {"recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the discrepancies."""
        self.recent.clear()
        self.recent.extend(state["recent"])

    def _limit(self, view: View) -> float:
        """P."""
        if self._threshold is not None:
            return self._threshold + self._growth * view.step
        if len(self.recent) < self.least:
            return float("inf")
        return float(torch.quantile(torch.tensor(list(self.recent)), self.quantile))
