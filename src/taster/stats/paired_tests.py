"""Paired tests of whether one model does worse than another on the same samples, by more than a tolerance."""

from __future__ import annotations

import math

from torch import Tensor


def mcnemar_pvalue(before: Tensor, after: Tensor, tolerance: float = 0.0) -> float:
    """The p-value of the hypothesis that accuracy drops by no more than the tolerance.

    Of m samples that exactly one of the models classifies correctly, as many are lost as gained if accuracy stays the
    same; if it drops by τ, the expected fraction of lost ones is π = 1/2 + nτ / 2m. So

        p = P(Bin(m, π) ≥ lost)

    which is McNemar's exact test for τ = 0; for τ > 0 the rate of such samples, m/n, is taken as observed.

    Args:
        before, after: which samples each model classifies correctly, boolean [n].
        tolerance: τ, a fraction from 0 to 1.

    Source: McNemar 1947.
    """
    from scipy.stats import binom  # slow to import, and only needed here

    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    changed = lost + gained
    if lost == 0:
        return 1.0
    share = min(1.0, 0.5 + tolerance * len(before) / (2 * changed))
    return float(binom.sf(lost - 1, changed, share))


def paired_t_pvalue(before: Tensor, after: Tensor, tolerance: float = 0.0) -> float:
    """The p-value of the hypothesis that the mean drops by no more than the tolerance, by Student's paired test.

    Args:
        before, after: one number per sample, [n].
        tolerance: in the units of the numbers.

    Returns:
        p; 1 for fewer than two samples, NaN if a number is.
    """
    from scipy.stats import t  # slow to import, and only needed here

    drop = before.double() - after.double() - tolerance
    if len(drop) < 2:
        return 1.0
    mean, deviation = float(drop.mean()), float(drop.std())
    if deviation == 0:
        return 0.0 if mean > 0 else 1.0
    return float(t.sf(mean / deviation * math.sqrt(len(drop)), len(drop) - 1))
