"""What a few steps of training on poison do to a target, differentiable in the poison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.types import BatchNormMode, Tensors
from taster.core.view import View
from taster.derivatives.autodiff import as_leaves, grad
from taster.perturbations.objectives import margin


@dataclass(frozen=True, eq=False)
class LookAhead:
    """K steps of plain gradient descent from the weights of a net, and the margin of targets after them.

    The loss of a step is (1 − ρ) times the mean over clean samples plus ρ times the mean over all poison: what it is
    over the whole set in expectation, so that every sample of poison counts in every step.

    Attributes:
        view: of the net.
        share: ρ, poison over all samples, from 0 to 1.
        learning_rate: of each step.
        batch_norm: statistics that normalisation uses in these steps; after them it uses the recorded ones.
        augment: changes the images of a step, differentiably. None: does not.
    """

    view: View
    share: float
    learning_rate: float
    batch_norm: BatchNormMode = "train"
    augment: Callable[[Tensor], Tensor] | None = None

    def params(self, clean: Sequence[Batch], poison: Batch) -> Tensors:
        """The weights after a step for each batch of clean samples, by name, with their graph to the poison.

        Args:
            clean: x [b, ...] and y int64 [b] of each step.
            poison: x [k, ...] and y int64 [k], the same in each step.
        """
        params = as_leaves(self.view.trainable)
        for batch in clean:
            x, y = torch.cat([batch.x, poison.x]), torch.cat([batch.y, poison.y])
            if self.augment is not None:
                x = self.augment(x)
            each = self.view.sample_losses(x, y, params=params, batch_norm=self.batch_norm)
            others, own = each[: len(batch)].mean(), each[len(batch) :].mean()
            slopes = grad((1 - self.share) * others + self.share * own, params, create_graph=True)
            params = {name: value - self.learning_rate * slopes[name] for name, value in params.items()}
        return params

    def adversarial_loss(self, clean: Sequence[Batch], poison: Batch, wanted: Batch, confidence: float) -> Tensor:
        """The mean over targets of max(zⱼ over the other classes j − z_w, −κ), z their logits after the steps.

        Args:
            clean, poison: see `params`.
            wanted: targets x [t, ...] with the class w that is wanted, y int64 [t].
            confidence: κ.

        Source: the loss of Carlini and Wagner 2017, as Huang et al. 2020 use it.
        """
        logits: Tensor = self.view.forward(wanted.x, params=self.params(clean, poison))
        return margin(logits, wanted.y).clamp_min(-confidence).mean()
