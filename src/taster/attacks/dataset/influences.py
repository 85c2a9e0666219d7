"""What training samples do to the loss of an attacker's own samples, to first order: by linear models and by nets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from taster.attacks.dataset.flat_samples import draw_rows
from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.surrogate import loss_of, net_fits, train_nets
from taster.core.batch import Batch
from taster.core.types import Tensors
from taster.core.view import View
from taster.derivatives.autodiff import DoubleBackward
from taster.derivatives.convex_losses import LOSSES
from taster.derivatives.convex_models import ConvexModel
from taster.derivatives.net_curvature import CurvatureSettings, NetCurvature

_CHUNK = 500
"""Samples that a net takes at once."""


class Influences(Protocol):
    """Of samples on the loss L of an attacker's own samples, through a training, at its end."""

    def influence(self, x: Tensor, y: Tensor, /) -> Tensor:
        """−∇Lᵀ H⁻¹ ∇ℓ(x, y) of samples [k, ...] and labels int64 [k], [k]: how fast L rises, times n, with their weight
        in the training's loss (Koh and Liang 2017, Eq. 2)."""

    def slope(self, x: Tensor, y: Tensor, /) -> Tensor:
        """The derivative of each sample's influence in the sample, of the samples' shape."""

    def losses(self, x: Tensor, y: Tensor, /) -> Tensor:
        """Of each sample, [k]."""


@dataclass(frozen=True, eq=False)
class LinearInfluences:
    """Influences through a linear model.

    Attributes:
        model: trained; samples are [k, d] in float64.
        along: H⁻¹ ∇L, [K, d + 1].
    """

    model: ConvexModel
    along: Tensor

    def influence(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Influences`."""
        return self.model.influence(x, y, self.along)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Influences`."""
        return -self.model.pull(x, y, self.along)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Influences`."""
        return LOSSES[self.model.settings.loss](self.model.logits(x), y).value


@dataclass(frozen=True, eq=False)
class NetInfluences:
    """Influences through nets, the mean over several of them.

    Attributes:
        views: of the trained nets.
        along: (H + λ I)⁻¹ ∇L of each, by the name of each trainable parameter.
    """

    views: Sequence[View]
    along: Sequence[Tensors]

    def influence(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Influences`. The inner products are derivatives of the losses along H⁻¹ ∇L, in one forward pass."""

        def one(view: View, along: Tensors, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                found: Tensor = torch.func.jvp(
                    lambda params: view.sample_losses(x, y, params=params), (view.trainable,), (along,)
                )[1]
            return -found.detach()

        return self._mean(one, x, y)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Influences`."""

        def one(view: View, along: Tensors, x: Tensor, y: Tensor) -> Tensor:
            # The loss is the mean of the part's.
            found = DoubleBackward().mixed_derivative(loss_of(view), view.trainable, Batch(x, y), along)
            return -len(x) * found

        return self._mean(one, x, y)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Influences`."""

        def one(view: View, along: Tensors, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                return view.sample_losses(x, y).detach()

        return self._mean(one, x, y)

    def _mean(self, one: Callable[[View, Tensors, Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Of what the nets say of samples, a part at a time."""
        found = []
        for x_part, y_part in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
            said = [one(view, along, x_part, y_part) for view, along in zip(self.views, self.along, strict=True)]
            found.append(torch.stack(said).mean(0))
        return torch.cat(found)


def net_influences(
    samples: Batch, knowledge: DatasetKnowledge, settings: CurvatureSettings, *, nets: int, first: int, damping: float
) -> NetInfluences:
    """Trains nets as the attacker's knowledge says, and solves for the direction in which the loss of his own samples
    depends on what they learn.

    Args:
        samples: the training set, x [n, ...] and y int64 [n].
        knowledge: of the attacker.
        settings: of the linear systems.
        nets: for each training that he knows of.
        first: seed of the first of them.
        damping: added to the diagonal, beside the training's weight decay.

    Raises:
        AttackError: for the training of an estimator, and one that comes to no finite loss.
        ModelError: for a linear system that is not positive definite, or does not converge.
    """
    name = "influence_selection"
    views = train_nets(nets, samples, knowledge, name, first=first)
    fits = [fit for fit in net_fits(knowledge, name) for _ in range(nets)]
    curved = samples
    if len(samples) > settings.curvature_samples:
        all_rows = torch.ones(len(samples), dtype=torch.bool, device=samples.x.device)
        curved = samples.select(draw_rows(all_rows, settings.curvature_samples, knowledge.generator))
    own = Batch(knowledge.own.x.to(samples.x), knowledge.own.y.to(samples.y))
    along = []
    for view, fit in zip(views, fits, strict=True):
        system = NetCurvature(view, curved, damping + fit.settings.weight_decay, settings)
        along.append(system.solve(view.loss_gradient(own)))
    return NetInfluences(views, along)
