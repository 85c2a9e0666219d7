"""Solves linear systems with the Hessian of a linear classifier: exactly, or by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.derivatives.conjugate_gradients import conjugate_gradients
from taster.derivatives.convex_losses import Curvature
from taster.errors import ModelError


def exact_solve(x: Tensor, curvature: Curvature, l2: float, right: Tensor) -> Tensor:
    """V with H V = B, where H = Σᵢ Cᵢ ⊗ xᵢ xᵢᵀ + λ I, by Cholesky decomposition.

    Args:
        x: samples, [n, D].
        curvature: C.
        l2: λ, above 0.
        right: B, [K, D].

    Raises:
        ModelError: if rounding makes H indefinite.
    """
    K, D = right.shape
    if curvature.separate:
        blocks = torch.stack([x.T @ (curvature.entry(k, k)[:, None] * x) for k in range(K)])
        factor = _cholesky(blocks + l2 * torch.eye(D, dtype=x.dtype, device=x.device))
        return torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
    H = torch.empty(K, D, K, D, dtype=x.dtype, device=x.device)
    for a in range(K):
        for b in range(a + 1):
            block = x.T @ (curvature.entry(a, b)[:, None] * x)  # symmetric
            H[a, :, b, :] = block
            H[b, :, a, :] = block
    whole = H.reshape(K * D, K * D)
    whole.diagonal().add_(l2)
    return torch.cholesky_solve(right.reshape(-1, 1), _cholesky(whole)).reshape(K, D)


def iterative_solve(
    product: Callable[[Tensor], Tensor], right: Tensor, *, tolerance: float, max_iterations: int
) -> Tensor:
    """V with H V = B; see `taster.derivatives.conjugate_gradients`.

    Raises:
        ModelError: if the residual is greater than the tolerance after so many iterations.
    """
    found = conjugate_gradients(product, right, tolerance=tolerance, max_iterations=max_iterations)
    if not found.converged:
        raise ModelError(
            f"conjugate gradients: got a relative residual of {found.residual:.1e} after {max_iterations} products, "
            f"wanted {tolerance:.0e}: raise l2 or damping, or scale the samples"
        )
    return found.x


def _cholesky(matrix: Tensor) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        raise ModelError(
            "training a linear model: got a Hessian that is not positive definite in float64, wanted one that is: "
            "raise l2, or scale the samples to about 1"
        )
    return factor
