"""The baseline: the accumulative attack's derivatives written plainly, by double backward through per-tensor cosines.

objective  Σₚ cos(gₚ, aₚ) + Σₚ cos(gₚ, Gₚ),  g = ∇_θ L(poison), a = ∇_θ L(clean), G = ∇_θ Σₚ cos(∇L_val, ∇L_trigger)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = list[Tensor]
Loss = Callable[[Tensors, Tensor, Tensor], Tensor]
"""Of parameters, samples and labels."""


def cosines(a: Tensors, b: Tensors) -> Tensor:
    """Σₚ cos(aₚ, bₚ)."""
    return torch.stack([(u * v).sum() / (u.norm() * v.norm()) for u, v in zip(a, b, strict=True)]).sum()


def gradient(loss: Loss, params: Tensors, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensors:
    """∇_θ L."""
    return list(torch.autograd.grad(loss(params, x, y), params, create_graph=create_graph))


def cosine(a: Tensors, b: Tensors) -> Tensor:
    """One cosine over all parameters."""
    return cosines([torch.cat([u.flatten() for u in a])], [torch.cat([v.flatten() for v in b])])


def direction(
    loss: Loss,
    params: Tensors,
    val: tuple[Tensor, Tensor],
    trigger: tuple[Tensor, Tensor],
    product: Callable[[Tensors, Tensors], Tensor] = cosines,
) -> Tensors:
    """G."""
    a = gradient(loss, params, *val, create_graph=True)
    b = gradient(loss, params, *trigger, create_graph=True)
    return list(torch.autograd.grad(product(a, b), params))


def slope(loss: Loss, params: Tensors, x: Tensor, y: Tensor, towards: list[Tensors]) -> Tensor:
    """∇ₓ of the objective."""
    x = x.detach().requires_grad_()
    own = gradient(loss, params, x, y, create_graph=True)
    (found,) = torch.autograd.grad(torch.stack([cosines(own, v) for v in towards]).sum(), x)
    return found


def poisoned(
    loss: Loss,
    params: Tensors,
    batch: tuple[Tensor, Tensor],
    targets: Callable[[], list[Tensors]],
    epsilon: float,
    steps: int,
    *,
    hoisted: bool,
) -> Tensor:
    """A batch moved towards targets by PGD; `hoisted` computes these once, otherwise in every PGD step as published."""
    x, y = batch
    centre = x
    towards: list[Tensors] | None = None
    for _ in range(steps):
        if towards is None or not hoisted:
            towards = targets()
        x = x + 2 * epsilon / steps * slope(loss, params, x, y, towards).sign()
        x = torch.maximum(torch.minimum(x, centre + epsilon), centre - epsilon).clamp(0, 1).detach()
    return x
