"""What a gate on a probe of a given size can detect: how far accuracy can have dropped unnoticed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Protocol, runtime_checkable

import numpy as np

from taster.errors import GuardError

MAX_SAMPLES = 100_000
"""The largest probe that a bound is computed for; larger ones have a smaller bound."""

_ALWAYS_OPEN = 1000
"""Trusted samples that every check may look at, where there are as many."""

_MAX_CHECKS = 10**9
_MAX_REFUSALS = 10**6
_MAX_OUTCOMES = 10**9


@dataclass(frozen=True)
class DetectionBound:
    """A bound with its confidence.

    Attributes:
        max_accuracy_drop: percentage points by which the accuracy on the probe's distribution is below the anchor's at
            most.
        confidence: fraction of runs in which that holds at every check, at least.
        false_alarm_rate: fraction of runs in which the one test refuses a model that is as accurate as the anchor at
            any of the checks, at most (the union bound).
        samples, churn, checks, refusals: what the bound was computed for.
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
            f"with {100 * self.confidence:g} % confidence accuracy is at no check more than "
            f"{self.max_accuracy_drop:.1f} points below the anchor's, and at most "
            f"{100 * self.false_alarm_rate:.2g} % of runs have a false alarm ({self.samples} samples, churn "
            f"{self.churn:g} %, {self.checks} checks, at most {self.refusals} refusals)"
        )


@runtime_checkable
class HasDetectionBound(Protocol):
    """A gate that knows what it can detect."""

    def detection_bound(self, *, checks: int, refusals: int) -> DetectionBound:
        """The bound for a number of checks, of which some refused."""
        ...


def held_out_samples(samples: int) -> int:
    """How many of a gate's trusted samples audits alone look at: three fifths, but none of the first thousand."""
    return max(0, min(3 * samples // 5, samples - _ALWAYS_OPEN))


def detection_bound(
    samples: int,
    *,
    tolerance: float = 1.0,
    alpha: float = 0.01,
    checks: int = 1,
    refusals: int = 0,
    confidence: float = 0.95,
    churn: float = 5.0,
    outcomes: int = 1,
    held_out: int | None = None,
    held_out_refusals: int = 0,
) -> DetectionBound:
    """The smallest drop that a gate's audits detect every time with this confidence.

    An audit refuses if the observed drop is more than the tolerance and McNemar's exact test finds it more than chance.
    A true drop of D passes with a probability β(D), computed exactly from the binomials of lost and gained samples. The
    bound is the D with

        β(D) = (1 − confidence) / (K (K + 1) / 2 · Σ over r ≤ R of C(K, r) o^r)

    K checks against an anchor that may be the state at any earlier one are that many chances to pass. An attacker who
    sees which updates were refused can steer by that: his k-th update can depend on all earlier answers, of which
    there are Σ C(K, r) o^r patterns with at most R refusals (the argument of Blum and Hardt 2015), so that the bound
    holds for every attacker who does not hold the probe itself.

    What counts in R are the refusals by the very samples that the bound is computed for. Samples that are held out are
    looked at by audits alone, after the other samples have let the model pass, so that refusals by those others tell
    nothing of them (the reusable holdout of Dwork et al. 2015 has the same purpose). The bound is the smaller of the
    two: of the open samples with all refusals, and of those held out with theirs.

    Args:
        samples: in the probe (or of a class in it), drawn from the distribution that accuracy refers to; 1 to 100,000.
        tolerance: of the test, in percentage points.
        alpha: of the test, as a fraction.
        checks: K; 1 to 10⁹.
        refusals: R, how many of the checks refused; up to 10⁶.
        confidence: as a fraction.
        churn: samples, in percent, that the two models classify differently beyond the drop, half of them gained; more
            of them make the test less powerful.
        outcomes: o, the number of ways in which a refusal can turn out, if a gate chooses the state it goes back to by
            its probe; 1 to 10⁹.
        held_out: samples that audits alone look at; None takes as many as `probe_gate` holds out.
        held_out_refusals: refusals by those samples.

    Raises:
        GuardError: for numbers outside their range, and for counts that are no whole numbers.

    Source: taster's own, on McNemar 1947; the count of patterns after Blum and Hardt 2015 ("The Ladder").
    """
    _check_counts(samples, checks, refusals, outcomes)
    _check_fractions(tolerance, alpha, confidence, churn)
    if held_out is None:
        held_out = held_out_samples(samples)
    _check_held_out(held_out, held_out_refusals, samples, refusals)
    drop, false_alarms = 100.0, 0.0
    for count, refused in ((samples - held_out, refusals), (held_out, held_out_refusals)):
        if count:
            patterns = _log_patterns(checks, refused, outcomes)
            wanted = math.log1p(-confidence) - math.log(checks * (checks + 1) / 2) - patterns
            critical = _critical(count, tolerance / 100, alpha)
            drop = min(drop, _smallest_drop(count, churn / 100, critical, wanted))
            false_alarms += -math.expm1(_log_miss(count, 0.0, churn / 100, critical))
    return DetectionBound(drop, confidence, min(1.0, checks * max(0.0, false_alarms)), samples, churn, checks, refusals)


def _log_patterns(checks: int, refusals: int, outcomes: int) -> float:
    """log of the number of answers that an attacker may have seen."""
    from scipy.special import logsumexp  # slow to import, and only needed here

    refused = np.arange(refusals + 1)
    return float(logsumexp(_log_choose(checks, refused) + refused * math.log(outcomes)))


def _smallest_drop(samples: int, churn: float, critical: np.ndarray, wanted: float) -> float:
    """The drop, in percentage points, that is missed with a probability whose logarithm is the one wanted."""
    low, high = 0.0, 1.0 - churn
    if _log_miss(samples, high, churn, critical) > wanted:
        return 100.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _log_miss(samples, middle, churn, critical) > wanted:
            low = middle
        else:
            high = middle
    return 100 * high


def _critical(samples: int, tolerance: float, alpha: float) -> np.ndarray:
    """For each number m of samples that changed, the smallest number of lost ones at which an audit refuses."""
    from scipy.stats import binom  # slow to import, and only needed here

    changed = np.arange(1, samples + 1)
    # p = P(Bin(m, 1/2) ≥ lost) < alpha, so lost is one above the quantile.
    least = binom.isf(alpha, changed, 0.5) + 1
    least = np.where(binom.sf(least - 1, changed, 0.5) < alpha, least, least + 1)
    # lost − gained is more than the tolerance.
    beyond = np.floor((tolerance * samples + changed) / 2 + 1e-9) + 1
    return np.concatenate([[1.0], np.maximum(least, beyond)])


def _log_miss(samples: int, drop: float, churn: float, critical: np.ndarray) -> float:
    """log of the probability that the test does not refuse, for a true drop (a fraction)."""
    from scipy.special import logsumexp  # slow to import, and only needed here
    from scipy.stats import binom  # slow to import, and only needed here

    rate = min(1.0, drop + churn)
    if rate == 0:
        return 0.0
    changed = np.arange(samples + 1)
    lost = (drop + churn / 2) / rate
    return float(logsumexp(binom.logpmf(changed, samples, rate) + binom.logcdf(critical - 1, changed, min(1.0, lost))))


def _log_choose(n: int, k: np.ndarray) -> np.ndarray:
    from scipy.special import gammaln  # slow to import, and only needed here

    found: np.ndarray = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return found


def _check_counts(samples: int, checks: int, refusals: int, outcomes: int) -> None:
    bounds = {
        "samples": (samples, 1, MAX_SAMPLES),
        "checks": (checks, 1, _MAX_CHECKS),
        "refusals": (refusals, 0, _MAX_REFUSALS),
        "outcomes": (outcomes, 1, _MAX_OUTCOMES),
    }
    faults = [
        f"{name} {value!r}, wanted a whole number from {low} to {high}"
        for name, (value, low, high) in bounds.items()
        if not isinstance(value, Integral) or isinstance(value, bool) or not low <= value <= high
    ]
    if not faults and refusals > checks:
        faults = [f"refusals {refusals}, wanted at most the {checks} checks"]
    if faults:
        raise GuardError("detection_bound: got " + "; ".join(faults))


def _check_held_out(held_out: int, held_out_refusals: int, samples: int, refusals: int) -> None:
    for name, value, high in (
        ("held_out", held_out, samples - 1),
        ("held_out_refusals", held_out_refusals, refusals),
    ):
        if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value <= high:
            raise GuardError(f"detection_bound: got {name} {value!r}, wanted a whole number from 0 to {high}")


def _check_fractions(tolerance: float, alpha: float, confidence: float, churn: float) -> None:
    faults = [
        f"{name} {value!r}, wanted a number from 0 to 100"
        for name, value in (("tolerance", tolerance), ("churn", churn))
        if not _is_number(value) or not 0 <= value <= 100
    ]
    faults += [
        f"{name} {value!r}, wanted a fraction between 0 and 1"
        for name, value in (("alpha", alpha), ("confidence", confidence))
        if not _is_number(value) or not 0 < value < 1
    ]
    if faults:
        raise GuardError("detection_bound: got " + "; ".join(faults))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
