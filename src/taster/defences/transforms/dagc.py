"""Discrepancy-aware gradient clipping: clips only updates after which the model would disagree with its past."""

from __future__ import annotations

from typing import Any

import torch

from taster.core.batch import Batch, check_tensors
from taster.core.guard import Guard
from taster.core.step_record import StepRecord
from taster.core.threat import countermeasure
from taster.core.trusted_data import check_trusted_data, check_trusted_range, trusted_outputs
from taster.core.types import Tensors
from taster.core.view import View
from taster.defences.transforms.clipping import clip_gradient
from taster.perturbations.pgd import Norm
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.scores.thresholds import LinearThreshold, RecentQuantile
from taster.utils.setting_types import ModelRef, PositiveCount, PositiveFloat, Quantile, Window
from taster.utils.settings import validate_settings


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def dagc(
    probe: Batch,
    *,
    reference_model: ModelRef,
    learning_rate: PositiveFloat,
    max_norm: PositiveFloat = 1.0,
    norm: Norm = "l2",
    divergence: Divergence = "kl",
    threshold: float | None = None,
    threshold_growth: float = 0.0,
    quantile: Quantile = 0.75,
    window: Window = 100,
    warmup_steps: PositiveCount = 3,
    probe_samples: PositiveCount = 100,
) -> Guard:
    """Clips a gradient that would make the model's predictions on trusted samples depart from an earlier model's more
    than usual.

        g ← g · min(1, η / ‖g‖) if the mean over the probe of D(x; θ_{t−k}, θ_t − β g) > P; otherwise unchanged

    The paper gives no formula for its setting, where the server has no samples of its clients. Taking the discrepancy
    on trusted samples, of the model after the update, is taster's own.

    Args:
        probe: trusted samples.
        reference_model: the earlier model, see `taster.scores.memorization_discrepancy.MemorizationDiscrepancy`.
        learning_rate: β, of the step that is looked ahead to.
        max_norm: η.
        norm: of the gradient, "l2" or "linf".
        divergence: "kl" or "js".
        threshold: P₀ of P = P₀ + Δ·m after m steps; None takes a quantile of the discrepancies after recent learned
            steps, so an update that is clipped raises P by less than it would have unclipped.
        threshold_growth: Δ.
        quantile: of recent discrepancies, for an estimated P.
        window: the number of recent discrepancies.
        warmup_steps: learned steps before anything is clipped, for an estimated P.
        probe_samples: the number of leading samples of the probe that are used.

    Source: Zhu et al. 2023, Appendix C.10 ("Discrepancy-aware Gradient Clipping").
    """
    score = MemorizationDiscrepancy(reference_model, divergence)
    limit: LinearThreshold | RecentQuantile
    if threshold is None:
        limit = RecentQuantile(quantile, window, warmup_steps)
    else:
        limit = LinearThreshold(threshold, threshold_growth)
    return Guard(
        transforms=[DiscrepancyAwareClipping(probe, probe_samples, score, limit, learning_rate, max_norm, norm)]
    )


class DiscrepancyAwareClipping:
    """The transform of `dagc`.

    Args:
        probe: trusted samples.
        probe_samples: how many of them are used.
        score: the discrepancy.
        limit: P.
        learning_rate: β.
        max_norm: η.
        norm: of the gradient.
    """

    name = "dagc"

    def __init__(
        self,
        probe: Batch,
        probe_samples: int,
        score: MemorizationDiscrepancy,
        limit: LinearThreshold | RecentQuantile,
        learning_rate: float,
        max_norm: float,
        norm: Norm,
    ) -> None:
        self._samples = probe_samples
        self._probe = check_trusted_data(probe, self.name).select(slice(probe_samples))
        self._score = score
        self._limit = limit
        self._learning_rate = learning_rate
        self._max_norm = max_norm
        self._norm: Norm = norm

    def __call__(self, gradient: Tensors, view: View) -> Tensors:
        """The gradient, clipped if the model would depart from its past."""
        limit = self._limit(view)
        # A discrepancy of NaN is over any limit.
        if self.look_ahead(gradient, view) <= limit:
            return gradient
        return clip_gradient(gradient, self._max_norm, self._norm)

    @torch.no_grad()
    def look_ahead(self, gradient: Tensors, view: View) -> float:
        """The probe's mean discrepancy after a plain step along this gradient, in nats."""
        params = {name: view.params[name] - self._learning_rate * value for name, value in gradient.items()}
        past = view.steps_ago(self._score.reference_model).forward(self._probe.x)
        return float(self._score.from_logits(past, view.forward(self._probe.x, params=params)).mean())

    @torch.no_grad()
    def observe(self, record: StepRecord, view: View) -> None:
        """Adds the discrepancy after a step that was learned, for an estimated P."""
        if record.verdict.committed and isinstance(self._limit, RecentQuantile):
            self._limit.append(float(self._score(self._probe, view).mean()))

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the trusted samples; an estimated P begins again."""
        self._probe = check_trusted_data(probe, self.name).select(slice(self._samples))
        if isinstance(self._limit, RecentQuantile):
            self._limit.clear()

    def check_model(self, view: View) -> None:
        """Checks that the model takes the trusted samples."""
        check_tensors(self._probe, self.name)
        check_trusted_range(self._probe, view, self.name)
        trusted_outputs(self._probe, view, self.name)

    def state_dict(self) -> dict[str, Any]:
        """The recent discrepancies, oldest first, for an estimated P."""
        return self._limit.state_dict() if isinstance(self._limit, RecentQuantile) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the discrepancies."""
        if isinstance(self._limit, RecentQuantile):
            self._limit.load_state_dict(state)
