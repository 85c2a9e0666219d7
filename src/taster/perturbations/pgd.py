"""Projected gradient steps in a norm ball, for attacks and for defences that correct samples alike."""

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
    """All samples within a distance of a clean one, and within the range of the data.

    Attributes:
        norm: "linf" bounds each value's change, "l2" the Euclidean norm over a sample's values.
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
        """The nearest point of the ball around `clean` [n, ...] (itself in the range) for each sample of x [n, ...].

        Values that are not a number become the clean ones.
        """
        x = torch.where(x.isnan(), clean, x)
        if self.norm == "linf":
            x = torch.maximum(torch.minimum(x, clean + self.epsilon), clean - self.epsilon)
        else:
            # Clamped first, so that an infinite value has a finite distance; moving into a box that holds the centre
            # never leads out of the ball, so clamping again after the scaling keeps both.
            change = x.clamp(self.low, self.high) - clean
            x = clean + change * _scale_down(change, self.epsilon)
        return x.clamp(self.low, self.high)

    def random(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform draw from the ball around each sample, then clamped to the range."""
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
        """One ascending step of the given size: along the sign of the gradient, or along its direction; projected."""
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
        gradient: of the objective to be raised, at samples [n, ...].
        clean: centre of the ball, [n, ...].
        ball: the budget.
        steps: C.
        step_size: α, in the units of the data.
        start: where to begin, `ball.random(clean, generator)` for a random start; None begins at `clean`.
        momentum: μ of g ← μ g + ∇ₓ / ‖∇ₓ‖₁, each sample by itself, which then takes the gradient's place (MIM, Dong et
            al. 2018, Algorithm 1); 0 is without.
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
    gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None],
    clean: Tensor,
    ball: LpBall,
    chosen: Tensor,
    *,
    steps: int,
    step_size: float,
) -> Tensor:
    """`pgd` from the clean samples, each going on only as long as it is wanted to.

    Args:
        gradient: of samples as they stand [m, ...] and their indices [m]: the gradient of the objective to be raised
            [k, ...], and which of the m go on, a mask with k set; None where none does.
        clean: centre of the ball, [n, ...].
        ball: the budget.
        chosen: indices of the samples that begin, [m].
        steps: C, at most.
        step_size: α, in the units of the data.

    Returns:
        all samples, [n, ...].
    """
    x = clean.clone()
    for _ in range(steps):
        found = gradient(x[chosen], chosen) if len(chosen) else None
        if found is None:
            break
        slope, still = found
        chosen = chosen[still]
        x[chosen] = ball.step(x[chosen], slope, step_size, clean[chosen])
    return x


def _sizes(x: Tensor) -> Tensor:
    """l2 norm of each sample, [n, 1]; never zero, so that it can divide."""
    sizes: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1, keepdim=True)
    return sizes.clamp_min(torch.finfo(x.dtype).tiny)


def _scale_down(change: Tensor, epsilon: float) -> Tensor:
    return _rows((epsilon / _sizes(change)).clamp_max(1.0), change)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """[n, 1] shaped to multiply samples [n, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn where the generator lives, so that a seed means the same noise on every device.
    return torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
