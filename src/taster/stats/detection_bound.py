"""What a gate on a probe of a given size can promise: how far accuracy can have fallen without its noticing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.special import gammaln, logsumexp
from scipy.stats import binom

from taster.errors import GuardError


@dataclass(frozen=True)
class DetectionBound:
    """A bound with its confidence.

    Attributes:
        fall: in points: the accuracy on the probe's distribution has not fallen further below the anchor's.
        confidence: in how many of a hundred runs that holds at every check, at least.
        false_alarm: in how many of a hundred runs that one test refuses a model that is as accurate as the anchor, at
            any of the checks, at most (the union bound).
        samples, churn, checks, refusals: what it was computed for.
    """

    max_accuracy_drop: float
    confidence: float
    false_alarm_rate: float
    samples: int
    churn: float
    checks: int
    refusals: int

    def __str__(self) -> str:
        return (
            f"with {100 * self.confidence:g} % confidence accuracy is at no check more than {self.max_accuracy_drop:.1f} points below the "
            f"anchor's, and at most {100 * self.false_alarm_rate:.2g} % of runs have a false alarm ({self.samples} samples, "
            f"churn {self.churn:g} %, {self.checks} checks, at most {self.refusals} refusals)"
        )


@runtime_checkable
class HasDetectionBound(Protocol):
    """A gate that says what it can promise."""

    def detection_bound(self, *, checks: int, refusals: int) -> DetectionBound:
        """For so many checks, of which so many refused."""
        ...


def detection_bound(
    samples: int,
    *,
    tolerance: float = 1.0,
    alpha: float = 0.05,
    checks: int = 1,
    refusals: int = 0,
    confidence: float = 0.95,
    churn: float = 5.0,
    outcomes: int = 1,
) -> DetectionBound:
    """The least fall that `taster.stats.paired_tests.mcnemar_pvalue` finds at every one of so many checks with this confidence.

    A fall of D passes a check with a probability β(D), computed exactly from the binomials of lost and gained samples.
    The bound is the D with

        β(D) = (1 − confidence) / (K (K + 1) / 2 · Σ over r ≤ R of C(K, r) o^r)

    K checks against an anchor that may be the state at any of them before are so many chances to pass. An attacker who
    sees which updates were refused can steer by that: his k-th update can depend on all earlier answers, of which
    there are Σ C(K, r) o^r patterns with at most R refusals (the argument of Blum and Hardt 2015), so that the bound
    holds for every attacker who does not hold the probe itself.

    Args:
        samples: in the probe (or of a class in it), drawn from the distribution that accuracy is meant on.
        tolerance: of the test, in points.
        alpha: of the test.
        checks: K.
        refusals: R, how many of them refused.
        confidence: in percent.
        churn: samples, in percent, that the two models classify differently beyond the fall, half of them gained; more
            of them make the test blunter.
        outcomes: o, in how many ways a refusal can turn out, where a gate picks the state it goes back to by its probe.

    Raises:
        GuardError: for numbers outside their range.

    Source: taster's own, on McNemar 1947; the count of patterns after Blum and Hardt 2015 ("The Ladder").
    """
    _check(samples, tolerance, alpha, checks, refusals, confidence, churn)
    if outcomes < 1:
        raise GuardError(f"detection_bound: got outcomes {outcomes}, wanted at least 1")
    patterns = logsumexp([_log_choose(checks, r) + r * math.log(outcomes) for r in range(refusals + 1)])
    wanted = math.log1p(-confidence) - math.log(checks * (checks + 1) / 2) - float(patterns)
    critical = _critical(samples, tolerance / 100, alpha)
    one = -math.expm1(_log_miss(samples, 0.0, churn / 100, critical))
    false_alarm = min(1.0, checks * max(0.0, one))
    low, high = 0.0, 1.0 - churn / 100
    if _log_miss(samples, high, churn / 100, critical) > wanted:
        return DetectionBound(100.0, confidence, false_alarm, samples, churn, checks, refusals)
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _log_miss(samples, middle, churn / 100, critical) > wanted:
            low = middle
        else:
            high = middle
    return DetectionBound(100 * high, confidence, false_alarm, samples, churn, checks, refusals)


def _critical(samples: int, tolerance: float, alpha: float) -> np.ndarray:
    """For each number m of samples that changed, the least number of them lost at which the test refuses."""
    changed = np.arange(1, samples + 1)
    share = np.minimum(1.0, 0.5 + tolerance * samples / (2 * changed))
    # p = P(Bin ≥ lost) < alpha, so lost is one above the quantile; where the share is 1 it cannot refuse.
    least = binom.isf(alpha, changed, share) + 1
    least = np.where(binom.sf(least - 1, changed, share) < alpha, least, least + 1)
    return np.concatenate([[1.0], np.where(share < 1, least, changed + 1)])


def _log_miss(samples: int, fall: float, churn: float, critical: np.ndarray) -> float:
    """log of the chance that the test does not refuse, for a true fall (a share)."""
    rate = min(1.0, fall + churn)
    if rate == 0:
        return 0.0
    changed = np.arange(samples + 1)
    lost = (fall + churn / 2) / rate
    return float(logsumexp(binom.logpmf(changed, samples, rate) + binom.logcdf(critical - 1, changed, min(1.0, lost))))


def _log_choose(n: int, k: int) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def _check(
    samples: int, tolerance: float, alpha: float, checks: int, refusals: int, confidence: float, churn: float
) -> None:
    faults = []
    if samples < 1 or checks < 1:
        faults.append(f"samples {samples} and checks {checks}, wanted at least 1 of each")
    if not 0 <= refusals <= checks:
        faults.append(f"refusals {refusals}, wanted 0 to the {checks} checks")
    if not (0 <= tolerance <= 100 and 0 <= churn <= 100):
        faults.append(f"tolerance {tolerance} and churn {churn}, wanted 0 to 100")
    if not (0 < alpha < 1 and 0 < confidence < 1):
        faults.append(f"alpha {alpha} and confidence {confidence}, wanted 0 to 1, neither end")
    if faults:
        raise GuardError("detection_bound: got " + "; ".join(faults))
