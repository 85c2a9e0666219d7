"""Gradients that would raise the loss on trusted samples lose the part that does."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.core.trusted_data import check_trusted_data, check_trusted_losses, check_trusted_range
from taster.core.types import Tensors
from taster.core.view import View
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def agem_projection(probe: Batch, *, probe_samples: PositiveCount = 100) -> Guard:
    """Projects the gradient onto the half-space where the loss on trusted samples does not rise.

        g ← g − min(0, ⟨g, p⟩) / ‖p‖² · p, p = ∇_θ L(probe; θ_t)

    Args:
        probe: trusted samples.
        probe_samples: the number of leading samples of the probe that p is taken from; p costs as much as a plain step
            on them.

    Source: Chaudhry et al. 2019 ("A-GEM", Eq. 11), with trusted samples in place of the memory of earlier tasks.
    """
    return Guard(transforms=[AGEMProjection(probe, probe_samples)])


class AGEMProjection:
    """The transform of `agem_projection`."""

    name = "agem_projection"

    def __init__(self, probe: Batch, probe_samples: int) -> None:
        self._samples = probe_samples
        self.set_trusted_data(probe)

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the trusted samples."""
        self._probe = check_trusted_data(probe, self.name).select(slice(self._samples))

    def check_model(self, view: View) -> None:
        """Checks that the model and the loss take the trusted samples."""
        check_trusted_range(self._probe, view, self.name)
        check_trusted_losses(self._probe, view, self.name)

    def __call__(self, gradient: Tensors, view: View) -> Tensors:
        """The gradient without the part that opposes the probe's."""
        towards = view.loss_gradient(self._probe)
        shared = [name for name in gradient if name in towards]
        along = _inner([gradient[n] for n in shared], [towards[n] for n in shared])
        size = _inner([towards[n] for n in shared], [towards[n] for n in shared])
        # A probe gradient with NaN makes the result NaN, which is refused: it must not pass unprojected.
        if bool(along >= 0) or bool(size == 0):
            return gradient
        return {n: g - along / size * towards[n] if n in towards else g for n, g in gradient.items()}


def _inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(u * v).sum() for u, v in zip(a, b, strict=True)]).sum()
