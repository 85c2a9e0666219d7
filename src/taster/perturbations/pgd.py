"""Projected gradient ascent in a norm ball, shared by attacks and by defences that correct samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.errors import AttackError

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class LpBall:
    """All samples within a distance of a clean sample and within the range of the data.

    Attributes:
        norm: "linf" bounds the change of each value, "l2" the Euclidean norm of the change of a sample.
        epsilon: the radius, in the units of the data.
        low, high: the range of the data.
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise AttackError(f"norm: got {self.norm!r}, wanted 'linf' or 'l2'")
        if not self.low < self.high:
            raise AttackError(f"range: got {self.low} to {self.high}, wanted low below high")
        if not 0 <= self.epsilon < float("inf"):
            raise AttackError(f"epsilon: got {self.epsilon}, wanted a finite number of at least 0")

    def project(self, x: Tensor, clean: Tensor) -> Tensor:
        """Projects samples x [n, ...] into the balls around clean samples [n, ...], which lie in the range of the data.

        NaN is replaced by the clean value.
        """
        x = torch.where(x.isnan(), clean, x)
        if self.norm == "linf":
            x = torch.maximum(torch.minimum(x, clean + self.epsilon), clean - self.epsilon)
        else:
            # Clamped first, so that an infinite value has a finite distance. Clamping again after the scaling does not
            # leave the ball, since the box contains its center.
            change = x.clamp(self.low, self.high) - clean
            x = clean + change * _scale_down(change, self.epsilon)
        return x.clamp(self.low, self.high)

    def random(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform draw from the ball around each sample, clamped to the range of the data."""
        if self.norm == "linf":
            return self.project(clean + self.epsilon * (2 * _uniform(clean, generator) - 1), clean)
        direction = _normal(clean, generator)
        dimensions = clean[0].numel()
        radius = _uniform(clean.flatten(1)[:, :1], generator) ** (1 / dimensions) * self.epsilon
        return self.project(clean + direction * _rows(radius / _sizes(direction), clean), clean)

    def random_boundary(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A random draw from the ball's boundary: ±ε in each value, or a random direction of length ε."""
        if self.norm == "linf":
            signs = torch.where(_uniform(clean, generator) < 0.5, -1.0, 1.0)
            return self.project(clean + self.epsilon * signs, clean)
        direction = _normal(clean, generator)
        return self.project(clean + direction * _rows(self.epsilon / _sizes(direction), clean), clean)

    def step(self, x: Tensor, gradient: Tensor, size: float, clean: Tensor) -> Tensor:
        """One step of ascent, projected: along the sign of the gradient ("linf") or along its direction ("l2")."""
        gradient = torch.nan_to_num(gradient)
        move = gradient.sign() if self.norm == "linf" else gradient * _rows(1 / _sizes(gradient), gradient)
        return self.project(x + size * move, clean)


def pgd(
    gradient: Callable[[Tensor], Tensor],
    clean: Tensor,
    ball: LpBall,
    *,
    steps: int,
    step_size: float,
    init: Tensor | None = None,
    momentum: float = 0.0,
) -> Tensor:
    """Projected gradient ascent (Madry et al. 2018): x ← proj(x + α sign ∇ₓ) for `steps` steps.

    One step of size ε is FGSM (Goodfellow et al. 2015).

    Args:
        gradient: computes the gradient of the objective at samples [n, ...].
        clean: center of the ball, [n, ...].
        ball: the budget.
        steps: C.
        step_size: α, in the units of the data.
        init: initial samples, `ball.random(clean, generator)` for a random start. Default: `clean`.
        momentum: μ of g ← μ g + ∇ₓ / ‖∇ₓ‖₁, sample by sample, which replaces the gradient (MIM, Dong et al. 2018,
            Algorithm 1). 0: none.
    """
    x = clean if init is None else ball.project(init, clean)
    going = torch.zeros_like(clean) if momentum else None
    for _ in range(steps):
        slope = gradient(x)
        if going is not None:
            slope = torch.nan_to_num(slope)
            going = momentum * going + slope / _rows(slope.abs().flatten(1).sum(1, keepdim=True), slope).clamp_min(
                torch.finfo(slope.dtype).tiny
            )
            slope = going
        x = ball.step(x, slope, step_size, clean)
    return x.detach()


def pgd_with_early_stop(
    look: Callable[[Tensor, Tensor], tuple[Tensor, Callable[[], Tensor]]],
    clean: Tensor,
    ball: LpBall,
    chosen: Tensor,
    *,
    steps: int,
    step_size: float,
) -> Tensor:
    """`pgd` from the clean samples, in which each sample may stop early.

    On a CPU a sample that has stopped is left out of what follows. On a GPU, where the host would have to wait to know
    how many are left, it stays where it is and all steps are made.

    Args:
        look: given the current samples [m, ...] and their indices [m], returns a mask [m] of those that continue, and a
            function that computes the gradient of the objective [m, ...]. What it says of a sample that has stopped
            before counts for nothing.
        clean: center of the ball, [n, ...].
        ball: the budget.
        chosen: indices of the samples to start with, [m].
        steps: C, the maximum.
        step_size: α, in the units of the data.

    Returns:
        all samples, [n, ...].
    """
    if not len(chosen):
        return clean.clone()
    center = clean[chosen]
    x, moving = center.clone(), torch.ones_like(chosen, dtype=torch.bool)
    left = slice(None) if not _shrinks(clean) else torch.arange(len(chosen), device=chosen.device)
    for _ in range(steps):
        going, gradient = look(x[left], chosen[left])
        if isinstance(left, Tensor):
            if not bool(going.any()):
                break
            left, slope = left[going], gradient()[going]
            x[left] = ball.step(x[left], slope, step_size, center[left])
        else:
            moving = moving & going
            stepped = ball.step(x, gradient(), step_size, center)
            x = torch.where(moving.view(-1, *[1] * (x.dim() - 1)), stepped, x)
    found = clean.clone()
    found[chosen] = x
    return found


def _shrinks(x: Tensor) -> bool:
    """Whether samples that have stopped are left out: where to ask how many are left costs no waiting."""
    return x.device.type == "cpu"


def _sizes(x: Tensor) -> Tensor:
    """l2 norm of each sample, [n, 1], at least the smallest positive number."""
    sizes: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1, keepdim=True)
    return sizes.clamp_min(torch.finfo(x.dtype).tiny)


def _scale_down(change: Tensor, epsilon: float) -> Tensor:
    return _rows((epsilon / _sizes(change)).clamp_max(1.0), change)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes values [n, 1] to broadcast over samples [n, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the generator's device, so that a seed gives the same noise on every device.
    return torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
