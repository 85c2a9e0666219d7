"""Gradient clipping at a quantile of recent norms: a bound that needs no tuning."""

from __future__ import annotations

from typing import Any

from taster.core.guard import Guard
from taster.core.step_record import StepRecord
from taster.core.threat import countermeasure
from taster.core.types import Tensors
from taster.core.view import View
from taster.defences.transforms.clipping import clip_gradient
from taster.scores.thresholds import RecentQuantile
from taster.utils.setting_types import PositiveCount, Quantile, Window
from taster.utils.settings import validate_settings


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def quantile_clipping(*, quantile: Quantile = 0.9, window: Window = 100, warmup_steps: PositiveCount = 10) -> Guard:
    """Scales the gradient down to a quantile of the norms of recent gradients.

        g ← g · min(1, b / ‖g‖₂), b the q-quantile of the last `window` norms, taken after clipping

    As norms count after clipping, an attacker cannot raise the bound by gradients that are clipped.

    Args:
        quantile: q.
        window: the number of norms.
        warmup_steps: learned updates before anything is clipped.

    Source: Seetharaman et al. 2020 ("AutoClip"), with a window, and norms after clipping.
    """
    return Guard(transforms=[QuantileClipping(RecentQuantile(quantile, window, warmup_steps))])


class QuantileClipping:
    """The transform of `quantile_clipping`, with the norms that its bound is estimated from."""

    name = "quantile_clipping"

    def __init__(self, norms: RecentQuantile) -> None:
        self._norms = norms

    def __call__(self, gradient: Tensors, view: View) -> Tensors:
        """The gradient, scaled down if it is too long."""
        return clip_gradient(gradient, self._norms(view))

    def observe(self, record: StepRecord, view: View) -> None:  # noqa: ARG002 (the protocol of a stage)
        """Adds the norm of an update that was learned."""
        if record.verdict.committed and record.gradient_norm_after is not None:
            self._norms.append(record.gradient_norm_after)

    def state_dict(self) -> dict[str, Any]:
        """The norms, oldest first."""
        return self._norms.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the norms."""
        self._norms.load_state_dict(state)
