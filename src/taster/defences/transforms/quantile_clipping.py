"""Gradient clipping at what has been usual of late: a bound that needs no tuning."""

from __future__ import annotations

from collections import deque
from typing import Annotated, Any

import torch
from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import StepRecord, Tensors
from taster.core.view import View
from taster.defences.transforms.clipping import clip_gradient
from taster.utils.settings import validate_settings


@validate_settings
def quantile_clipping(
    *,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.9,
    window: Annotated[int, Field(ge=1)] = 100,
    warmup_steps: Annotated[int, Field(ge=1)] = 10,
) -> Guard:
    """Scales the gradient down to a quantile of the norms of recent gradients, where it exceeds that.

        g ← g · min(1, b / ‖g‖₂), b the q-quantile of the last `window` norms, as they were after clipping

    As norms count as they were applied, an attacker cannot push the bound up by gradients that are clipped.

    Args:
        quantile: q.
        window: norms looked back to.
        least: norms that are seen before anything is clipped.

    Source: Seetharaman et al. 2020 ("AutoClip"), with a window, and norms after clipping.
    """
    return Guard(transforms=[QuantileClipping(quantile, window, warmup_steps)])


class QuantileClipping:
    """The transform of `quantile_clipping`, with the norms that it remembers."""

    name = "quantile_clipping"

    def __init__(self, quantile: float, window: int, least: int) -> None:
        self._quantile = quantile
        self._least = least
        self._norms: deque[float] = deque(maxlen=window)

    def __call__(self, gradient: Tensors, view: View) -> Tensors:  # noqa: ARG002 (the protocol of a transform)
        """The gradient, scaled where it is too long."""
        if len(self._norms) < self._least:
            return gradient
        bound = float(torch.quantile(torch.tensor(list(self._norms)), self._quantile))
        return clip_gradient(gradient, bound)

    def observe(self, record: StepRecord, view: View) -> None:  # noqa: ARG002 (the protocol of a stage)
        """Remembers the norm of an update that was learned."""
        if record.verdict.committed and record.gradient_norm_after is not None:
            self._norms.append(record.gradient_norm_after)

    def state_dict(self) -> dict[str, Any]:
        """The norms, oldest first."""
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the norms."""
        self._norms.clear()
        self._norms.extend(state["norms"])
