"""The gradient that adversarial samples are made by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.core.view import View


def cross_entropy_gradient(view: View, y: Tensor) -> Callable[[Tensor], Tensor]:
    """∇ₓ CE(f(x; θ_t), y), sample by sample, as a function of the samples [n, ...].

    Args:
        view: of the model, which is taken in eval mode.
        y: labels, [n].
    """

    def gradient(x: Tensor) -> Tensor:
        at = x.detach().requires_grad_()
        # The sum, so that no sample's gradient depends on how many there are.
        return torch.autograd.grad(cross_entropy(view.forward(at), y, reduction="sum"), at)[0]

    return gradient
