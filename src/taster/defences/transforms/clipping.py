"""Gradient clipping: no single update moves the model by more than a bound."""

from __future__ import annotations

import torch

from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.core.types import Tensors
from taster.core.view import View
from taster.perturbations.pgd import Norm
from taster.utils.setting_types import PositiveFloat
from taster.utils.settings import validate_settings


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def clipping(*, max_norm: PositiveFloat = 1.0, norm: Norm = "l2") -> Guard:
    """Scales a gradient whose norm over all parameters exceeds `max_norm` down to it; its direction stays.

        g ← g · min(1, max_norm / ‖g‖)

    Args:
        max_norm: the largest norm that is let through.
        norm: "l2", or "linf" for the largest single value.

    Source: Pascanu et al. 2013; as a defence in Pang et al. 2021, Section 4.2, and Zhu et al. 2023 ("GC").
    """

    def clip(gradient: Tensors, view: View) -> Tensors:
        return clip_gradient(gradient, max_norm, norm)

    return Guard(transforms=[clip])


@torch.no_grad()
def clip_gradient(gradient: Tensors, max_norm: float, norm: Norm = "l2") -> Tensors:
    """The gradient, scaled so that its norm over all tensors together is at most `max_norm`."""
    if not gradient or max_norm == float("inf"):
        return gradient
    order = 2.0 if norm == "l2" else float("inf")
    norms = torch.stack(torch._foreach_norm(list(gradient.values()), order))
    total = torch.linalg.vector_norm(norms, order)
    if float(total) <= max_norm:
        return gradient
    return dict(zip(gradient, torch._foreach_mul(list(gradient.values()), max_norm / total), strict=True))
