"""Noise in the 8 bits of an image file."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.errors import AttackError
from taster.perturbations.pgd import LpBall

_LEVELS = 255
_ROUNDING = 1e-4
"""Of floating point, in levels: 8/255 times 255 is to be 8."""


def most_levels(ball: LpBall) -> int:
    """By how many levels of 255 a value may change.

    Raises:
        AttackError: if by none.
    """
    most = int(ball.epsilon * _LEVELS + _ROUNDING)
    if not most:
        raise AttackError(
            f"epsilon: got {ball.epsilon:g}, wanted at least 1/255 = 0.0039, the least change of an image of 8 bits"
        )
    return most


def add_noise(pixels: Tensor, noise: Tensor, ball: LpBall) -> Tensor:
    """Pixels with noise, which stay in the ball after rounding.

    Args:
        pixels: uint8 [c, h, w].
        noise: within the ball around 0, of 1, [c, h, w].
        ball: for "l2", of this many pixels.

    Raises:
        AttackError: see `most_levels`.
    """
    most, change = most_levels(ball), noise.double() * _LEVELS
    # Rounding towards 0 never lengthens a vector; rounding to the nearest might.
    rounded = change.round().clamp(-most, most) if ball.norm == "linf" else (change + change.sign() * _ROUNDING).trunc()
    return (pixels.int() + rounded.int()).clamp(0, _LEVELS).to(torch.uint8)


def distance(protected: Tensor, original: Tensor, ball: LpBall) -> float:
    """How far an image is from its original, of 1, in the norm of the ball; both uint8 [c, h, w]."""
    change = (protected.double() - original.double()) / _LEVELS
    return float(change.abs().max() if ball.norm == "linf" else change.norm())


def is_within(protected: Tensor, original: Tensor, ball: LpBall) -> bool:
    """Whether an image is in the ball around its original, both uint8 [c, h, w]."""
    return distance(protected, original, ball) <= ball.epsilon + _ROUNDING / _LEVELS
