"""What a gate on a mean can detect: how far a quantity can have dropped unnoticed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from taster.errors import GuardError


@dataclass(frozen=True)
class MeanBound:
    """A bound with its confidence.

    Attributes:
        max_drop: how far the quantity's mean is below the anchor's at most, in its own units.
        confidence: fraction of runs in which that holds at every check, at least.
        samples, deviation, checks, refusals: what the bound was computed for.
    """

    max_drop: float
    confidence: float
    samples: int
    deviation: float
    checks: int
    refusals: int

    def __str__(self) -> str:
        return (
            f"with {100 * self.confidence:g} % confidence the mean is at no check more than {self.max_drop:.3g} below "
            f"the anchor's ({self.samples} samples, changes with a standard deviation of {self.deviation:.3g}, "
            f"{self.checks} checks, at most {self.refusals} refusals)"
        )


def mean_bound(
    samples: int,
    deviation: float,
    *,
    tolerance: float,
    alpha: float,
    checks: int = 1,
    refusals: int = 0,
    confidence: float = 0.95,
    outcomes: int = 1,
) -> MeanBound:
    """The smallest drop of a mean that Student's paired test detects at every check with this confidence.

    A drop of D passes a check with probability Φ(z₁₋α − (D − τ) √n / s), so that the bound is

        D = τ + (z₁₋α + z₁₋β) s / √n    with  β = (1 − confidence) / (K (K + 1) / 2 · Σ over r ≤ R of C(K, r) o^r)

    in the normal approximation, which wants a hundred samples or so. Checks and refusals count as in
    `taster.detection_bound`.

    Args:
        samples: n, of the probe.
        deviation: s, the standard deviation over samples of the change between the two models.
        tolerance: τ, in the quantity's units.
        alpha: of the test.
        checks: K.
        refusals: R, how many of the checks refused.
        confidence: as a fraction.
        outcomes: o, the number of ways in which a refusal can turn out.

    Raises:
        GuardError: for numbers out of range.
    """
    from scipy.special import gammaln, logsumexp  # slow to import, and only needed here
    from scipy.stats import norm  # slow to import, and only needed here

    faults = [
        f"{name} {value!r}"
        for name, value, fine in (
            ("samples", samples, samples >= 2),
            ("deviation", deviation, deviation >= 0),
            ("tolerance", tolerance, tolerance >= 0),
            ("alpha", alpha, 0 < alpha < 1),
            ("checks", checks, checks >= 1),
            ("refusals", refusals, 0 <= refusals <= checks),
            ("confidence", confidence, 0 < confidence < 1),
            ("outcomes", outcomes, outcomes >= 1),
        )
        if not (math.isfinite(value) and fine)
    ]
    if faults:
        raise GuardError(
            f"mean_bound: got {', '.join(faults)}, wanted numbers in range: counts of at least 1, fractions"
        )
    refused = np.arange(refusals + 1)
    choices = gammaln(checks + 1) - gammaln(refused + 1) - gammaln(checks - refused + 1)
    patterns = float(logsumexp(choices + refused * math.log(outcomes)))
    log_beta = math.log1p(-confidence) - math.log(checks * (checks + 1) / 2) - patterns
    missed = -float(_normal_quantile(log_beta))
    error = deviation / math.sqrt(samples)
    drop = tolerance + (float(norm.isf(alpha)) + missed) * error
    return MeanBound(drop, confidence, samples, deviation, checks, refusals)


def _normal_quantile(log_p: float) -> float:
    """z with log Φ(z) = log_p, also where p itself underflows."""
    from scipy.stats import norm  # slow to import, and only needed here

    low, high = -math.sqrt(2 * abs(log_p)) - 2, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if norm.logcdf(middle) < log_p:
            low = middle
        else:
            high = middle
    return high
