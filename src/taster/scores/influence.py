"""Influence: what learning a sample would do to the loss on trusted samples, to first order."""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.func import jvp

from taster.core.batch import Batch
from taster.core.param_vectors import global_norm
from taster.core.trusted_data import check_trusted_losses, check_trusted_range
from taster.core.types import Tensors
from taster.core.view import View
from taster.scores.base import PeriodicFit


class FirstOrderInfluence(PeriodicFit[Tensors]):
    """s(x) = −⟨∇_θ ℓ(x; θ_t), ∇_θ L(probe; θ)⟩ / ‖∇_θ L(probe; θ)‖, one number per sample: a `Score`.

    A step of gradient descent on a sample changes the probe's loss by η s, so samples with a positive score do harm.
    All inner products come from one forward pass, as derivatives of the samples' losses along the probe's gradient.

    Args:
        probe: trusted samples.
        refit_every: steps between gradients of the probe's loss.

    Raises:
        GuardError: for an interval under 1.

    Source: the influence functions of Koh and Liang 2017 with the identity for the Hessian; used to sanitize a stream
        by Seetharaman et al. 2021.
    """

    def __init__(self, probe: Batch, refit_every: int = 1) -> None:
        super().__init__("influence", probe, refit_every)

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], without a graph."""
        direction, trainable = self.fitted(view), view.trainable
        with torch.no_grad():
            along: Tensor = jvp(
                lambda params: view.sample_losses(batch, params=params),
                (trainable,),
                ({name: direction[name] for name in trainable},),
            )[1]
        return -along.detach()

    def check_model(self, view: View) -> None:
        """Checks that the model and the loss take the trusted samples."""
        check_trusted_range(self._clean, view, self._name)
        check_trusted_losses(self._clean, view, self._name)

    def _fit(self, view: View) -> Tensors:
        found = view.loss_gradient(self._clean)
        size = max(global_norm(found), sys.float_info.min)
        return {name: slope / size for name, slope in found.items()}
