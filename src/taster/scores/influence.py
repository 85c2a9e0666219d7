"""Influence: what learning a sample would do to the loss on trusted ones, to first order."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from taster.core.step import global_norm
from taster.core.types import Batch, StepRecord, Tensors
from taster.core.view import View
from taster.errors import GuardError


class FirstOrderInfluence:
    """s(x) = −⟨∇_θ ℓ(x; θ_t), ∇_θ L(probe; θ)⟩ / ‖∇_θ L(probe; θ)‖, one number a sample: a `Score`.

    A step of gradient descent on a sample changes the probe's loss by η s, so that what is above zero does harm. All
    inner products come from one forward pass, as derivatives of the samples' losses along the probe's gradient.

    Args:
        probe: trusted samples.
        every: steps between gradients of the probe's loss.

    Raises:
        GuardError: for an interval under 1.

    Source: the influence functions of Koh and Liang 2017 with the identity for the Hessian; used to sanitise a stream
        by Seetharaman et al. 2021.
    """

    def __init__(self, probe: Batch, refit_every: int = 1) -> None:
        if refit_every < 1:
            raise GuardError(f"got refit_every {refit_every}, wanted at least 1")
        self._probe = probe
        self._every = refit_every
        self._direction: Tensors | None = None

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], without a graph."""
        direction = self._look(view) if self._direction is None else self._direction
        trainable = view.trainable
        with torch.no_grad():
            along: Tensor = jvp(
                lambda params: view.sample_losses(batch.x, batch.y, params=params),
                (trainable,),
                ({name: direction[name] for name in trainable},),
            )[1]
        return -along.detach()

    def observe(self, record: StepRecord, view: View) -> None:
        """Takes the gradient anew when it is time."""
        if self._direction is None or (record.step + 1) % self._every == 0:
            self._direction = self._look(view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up other trusted samples."""
        self._probe, self._direction = probe, None

    def state_dict(self) -> dict[str, Any]:
        """The direction last taken."""
        return {"direction": self._direction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the direction."""
        self._direction = state["direction"]

    def _look(self, view: View) -> Tensors:
        found = view.loss_gradient(self._probe.x, self._probe.y)
        size = max(global_norm(found), sys.float_info.min)
        return {name: slope / size for name, slope in found.items()}
