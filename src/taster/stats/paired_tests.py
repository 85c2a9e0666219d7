"""Paired tests of whether one model does worse than another on the same samples, by more than a tolerance."""

from __future__ import annotations

import math

from scipy.stats import binom, t
from torch import Tensor


def mcnemar_pvalue(before: Tensor, after: Tensor, tolerance: float = 0.0) -> float:
    """The p-value of "accuracy falls by no more than the tolerance".

    Of m samples that one model has right and the other wrong, as many are lost as gained where accuracy stays the same;
    where it falls by τ, the share lost is π = 1/2 + nτ / 2m. So

        p = P(Bin(m, π) ≥ lost)

    which for τ = 0 is McNemar's exact test; for τ > 0 the rate of such samples, m/n, is taken as it was found.

    Args:
        before, after: which samples each model classifies rightly, boolean [n].
        tolerance: τ, a share from 0 to 1.

    Source: McNemar 1947.
    """
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    changed = lost + gained
    if lost == 0:
        return 1.0
    share = min(1.0, 0.5 + tolerance * len(before) / (2 * changed))
    return float(binom.sf(lost - 1, changed, share))


def paired_t_pvalue(before: Tensor, after: Tensor, tolerance: float = 0.0) -> float:
    """The p-value of "the mean falls by no more than the tolerance": Student's paired test, one-sided.

    Args:
        before, after: a number for each sample, [n].
        tolerance: in the units of the numbers.

    Returns:
        p; 1 for fewer than two samples.
    """
    fall = before.double() - after.double() - tolerance
    if len(fall) < 2:
        return 1.0
    mean, deviation = float(fall.mean()), float(fall.std())
    if deviation == 0:
        return 0.0 if mean > 0 else 1.0
    return float(t.sf(mean / deviation * math.sqrt(len(fall)), len(fall) - 1))
