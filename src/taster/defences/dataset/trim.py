"""TRIM: ridge regression on those samples of a poisoned set that fit together best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taster.defences.dataset.run_checks import Share, part_of, smallest
from taster.errors import BatchError, DefenceError
from taster.utils.seeds import generator
from taster.utils.setting_types import Count, PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


@dataclass(frozen=True, eq=False)
class TrimmedRidge:
    """A ridge regression and the samples that it rests on.

    Attributes:
        coefficients: w, float64 [d].
        intercept: b.
        kept: which samples were used, bool [n].
        loss: L over them.
        rounds: how often samples were chosen anew.
    """

    coefficients: Tensor
    intercept: float
    kept: Tensor
    loss: float
    rounds: int

    def predict(self, x: Tensor) -> Tensor:
        """w x + b, float64 [n], for x [n, d]."""
        return x.double() @ self.coefficients + self.intercept


@validate_settings
def trim_ridge(
    x: Tensor,
    y: Tensor,
    *,
    keep: Share,
    penalty: PositiveFloat = 1e-3,
    starts: PositiveCount = 1,
    max_rounds: PositiveCount = 400,
    seed: Count = 0,
) -> TrimmedRidge:
    """Looks for the samples on which a ridge regression has the smallest loss, and returns that regression (TRIM).

        L(I, w, b) = 1/|I| Σ_{i ∈ I} (w x_i + b − y_i)² + λ/2 ‖w‖²
        I₀ random; (w, b)_t = argmin L(I_t, ·), I_{t+1} = the samples with the smallest squared residuals under (w, b)_t

    No round makes L larger. It ends when the samples stay the same, or L does; what is found is a local minimum, of
    several random starts the best.

    Args:
        x: samples, floating point [n, d].
        y: what is to be predicted, floating point [n].
        keep: the share of samples that are used, that of the clean ones or less.
        penalty: λ.
        starts: how many random first sets are tried.
        max_rounds: from each of them.
        seed: of the random sets.

    Raises:
        BatchError: for other shapes and types, and numbers that are not finite.
        DefenceError: if `keep` keeps no sample.

    Source: Jagielski et al. 2018, Algorithm 3, in the version with corrected results.
    """
    _check(x, y)
    count = part_of(keep, len(x))
    if count == 0:
        raise DefenceError(f"trim_ridge: got keep {keep} of {len(x)} samples, wanted a share that keeps some")
    rows, targets = x.detach().double(), y.detach().double()
    draw = generator(seed, "first sets of TRIM")
    firsts = [torch.randperm(len(x), generator=draw)[:count].to(x.device) for _ in range(starts)]
    found = [_alternate(rows, targets, first, penalty, max_rounds) for first in firsts]
    return min(found, key=lambda one: one.loss)


def ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, float]:
    """The w [d] and b that minimise 1/n Σ (w x_i + b − y_i)² + λ/2 ‖w‖².

    Args:
        x: float64 [n, d].
        y: float64 [n].
        penalty: λ, above 0.
    """
    x_mean, y_mean = x.mean(0), y.mean()
    centered = x - x_mean
    curvature = centered.T @ centered / len(x) + penalty / 2 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    w = torch.linalg.solve(curvature, centered.T @ (y - y_mean) / len(x))
    return w, float(y_mean - x_mean @ w)


def _alternate(x: Tensor, y: Tensor, first: Tensor, penalty: float, max_rounds: int) -> TrimmedRidge:
    kept = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    kept[first] = True
    found = _fitted(x, y, kept, penalty, 0)
    for rounds in range(1, max_rounds + 1):
        chosen = smallest((found.predict(x) - y).square(), len(first))
        if torch.equal(chosen, found.kept):
            break
        better = _fitted(x, y, chosen, penalty, rounds)
        if better.loss >= found.loss:
            break
        found = better
    return found


def _fitted(x: Tensor, y: Tensor, kept: Tensor, penalty: float, rounds: int) -> TrimmedRidge:
    w, b = ridge(x[kept], y[kept], penalty)
    loss = (x[kept] @ w + b - y[kept]).square().mean() + penalty / 2 * w.square().sum()
    return TrimmedRidge(w, b, kept, float(loss), rounds)


def _check(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2 or not x.is_floating_point() or len(x) == 0:
        raise BatchError(f"trim_ridge: got x {list(x.shape)} of {x.dtype}, wanted floating point [n, d]")
    if y.shape != x.shape[:1] or not y.is_floating_point():
        raise BatchError(f"trim_ridge: got y {list(y.shape)} of {y.dtype}, wanted floating point [{len(x)}]")
    if not bool(x.isfinite().all()) or not bool(y.isfinite().all()):
        raise BatchError("trim_ridge: got NaN or infinity, wanted finite numbers: leave these samples out")
