"""Conjugate gradients, for Hessians that are known by their products."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What conjugate gradients found.

    Attributes:
        x: the solution, of the right side's shape.
        residual: its norm, relative to that of the right side; 0 for a right side of zeros.
        converged: whether that is within the tolerance.
    """

    x: Tensor
    residual: float
    converged: bool


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, *, tolerance: float, max_iterations: int
) -> Solution:
    """X with H X = B, for a positive definite H.

    Args:
        product: H V of V, of the shape of B.
        right: B.
        tolerance: of the residual's norm, relative to that of B.
        max_iterations: products at most.

    Source: Hestenes and Stiefel 1952.
    """
    found = torch.zeros_like(right)
    residual = right.clone()
    direction = residual.clone()
    start = left = float((residual * residual).sum())
    goal = tolerance**2 * start
    for _ in range(max_iterations):
        if left <= goal:
            break
        image = product(direction)
        step = left / float((direction * image).sum())
        found += step * direction
        residual -= step * image
        before, left = left, float((residual * residual).sum())
        direction = residual + left / before * direction
    return Solution(found, (left / start) ** 0.5 if start else 0.0, left <= goal)
