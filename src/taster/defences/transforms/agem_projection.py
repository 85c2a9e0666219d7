"""Gradients that would raise the loss on trusted samples lose the part of them that does."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.guard import Guard
from taster.core.types import Batch, Tensors
from taster.core.view import View
from taster.utils.settings import validate_settings


@validate_settings
def agem_projection(probe: Batch, *, probe_samples: Annotated[int, Field(ge=1)] = 100) -> Guard:
    """Projects the gradient off that of the probe's loss where the two oppose each other.

        g ← g − min(0, ⟨g, p⟩) / ‖p‖² · p, p = ∇_θ L(probe; θ_t)

    Args:
        probe: trusted samples.
        samples: of the probe that p is taken from, the first so many; p costs as much as a plain step on them.

    Source: Chaudhry et al. 2019 ("A-GEM", Eq. 11), with trusted samples in the place of the memory of earlier tasks.
    """
    return Guard(transforms=[AGEMProjection(probe, probe_samples)])


class AGEMProjection:
    """The transform of `agem_projection`."""

    name = "agem_projection"

    def __init__(self, probe: Batch, samples: int) -> None:
        self._samples = samples
        self.set_trusted_data(probe)

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up other trusted samples."""
        self._probe = Batch(probe.x[: self._samples], probe.y[: self._samples])

    def __call__(self, gradient: Tensors, view: View) -> Tensors:
        """The gradient, without what opposes the probe's."""
        towards = view.loss_gradient(self._probe.x, self._probe.y)
        shared = [name for name in gradient if name in towards]
        against = _inner([gradient[n] for n in shared], [towards[n] for n in shared])
        size = _inner([towards[n] for n in shared], [towards[n] for n in shared])
        # Not finite where the gradient is not, which is refused after the transforms.
        if not bool(against < 0) or not bool(size > 0):
            return gradient
        return {n: g - against / size * towards[n] if n in towards else g for n, g in gradient.items()}


def _inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(u * v).sum() for u, v in zip(a, b, strict=True)]).sum()
