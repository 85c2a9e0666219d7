"""The gradients that adversarial samples are made by."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.core.view import View
from taster.errors import AttackError

_CHUNK = 1000
"""Samples that pass the net at a time: a training set is poisoned as a whole."""


def cross_entropy_gradient(
    view: View, y: Tensor, transform: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """∇ₓ CE(f(x; θ_t), y), sample by sample, as a function of the samples [n, ...].

    Args:
        view: of the model, which is taken in eval mode.
        y: labels, [n].
        transform: of the samples before the model sees them, differentiable, [n, ...] to [n, ...].
    """
    return _gradient(view, y, transform, _own)


def error_maximising_gradient(
    view: View, y: Tensor, label_shift: int | None, transform: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """The gradient that error-maximising noise ascends, as a function of the samples [n, ...]: ∇ₓ CE(f(x; θ_t), y), or
    −∇ₓ CE(f(x; θ_t), g(y)) with g(y) = (y + s) mod K.

    Args:
        view: of the model, which is taken in eval mode.
        y: labels, [n].
        label_shift: s; None ascends from the labels in place of descending towards others.
        transform: see `cross_entropy_gradient`.

    Raises (when called):
        AttackError: for a shift that leaves every class in its place.

    Source: Fowl et al. 2021 ("Adversarial examples make strong poisons").
    """

    if label_shift is None:
        return cross_entropy_gradient(view, y, transform)
    towards = _gradient(view, y, transform, partial(_shifted, shift=label_shift))
    return lambda x: -towards(x)


def _gradient(
    view: View, y: Tensor, transform: Callable[[Tensor], Tensor] | None, aim: Callable[[Tensor, int], Tensor]
) -> Callable[[Tensor], Tensor]:
    """∇ₓ CE(f(x; θ_t), aim(y, classes)), sample by sample."""

    def gradient(x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for some, labels in zip(torch.split(x.detach(), _CHUNK), torch.split(y, _CHUNK), strict=True):
            at = some.clone().requires_grad_()
            logits = view.forward(at if transform is None else transform(at))
            # The sum, so that no sample's gradient depends on how many there are.
            loss = cross_entropy(logits, aim(labels, logits.shape[1]), reduction="sum")
            found += torch.autograd.grad(loss, at)
        return torch.cat(found)

    return gradient


def _own(y: Tensor, classes: int) -> Tensor:
    return y


def _shifted(y: Tensor, classes: int, *, shift: int) -> Tensor:
    """g(y), [n]."""
    if shift % classes == 0:
        raise AttackError(
            f"label_shift: got {shift} with a model of {classes} classes, wanted no multiple of that: every class "
            "would be its own target"
        )
    return (y + shift) % classes
