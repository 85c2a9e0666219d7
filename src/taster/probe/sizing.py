"""How many trusted samples a promise takes."""

from __future__ import annotations

from taster.errors import GuardError
from taster.stats.detection_bound import MAX_SAMPLES, DetectionBound, detection_bound, held_out_samples

_NAME = "taster.probe.size"

_ALPHA = 0.01
"""Of all tests of one check of `taster.guard`."""

_TESTS = 4
"""Two quantities of a classifier, each against the last check and the anchor."""

_OUTCOMES = 9
"""States that `taster.guard` goes back to: the last one, and eight before it."""


def size(
    drop: float,
    *,
    tolerance: float = 1.0,
    checks: int = 1000,
    refusals: int = 20,
    held_out_refusals: int = 0,
    churn: float = 5.0,
    confidence: float = 0.95,
) -> int:
    """How many samples it takes for `taster.guard` to let no larger drop of the accuracy pass unnoticed.

    The number is found by halving, up to one sample; as tests of counts go in steps, a few samples less may do as well.

    Args:
        drop: the largest drop that may go unnoticed, in percentage points; more than the tolerance.
        tolerance: of the guard, in percentage points.
        checks, refusals, held_out_refusals, churn, confidence: as in `taster.detection_bound`.

    Raises:
        GuardError: for a drop that not even 100,000 samples can promise, and for numbers out of range.
    """
    if isinstance(drop, bool) or not isinstance(drop, (int, float)) or not tolerance < drop <= 100:
        raise GuardError(
            f"{_NAME}: got a drop of {drop!r} points, wanted one above the tolerance of {tolerance:g}, which passes by "
            "definition, and at most 100"
        )

    def enough(samples: int) -> bool:
        found = guard_bound(
            samples,
            tolerance=tolerance,
            checks=checks,
            refusals=refusals,
            held_out_refusals=held_out_refusals,
            churn=churn,
            confidence=confidence,
        )
        return found.max_accuracy_drop <= drop

    if not enough(MAX_SAMPLES):
        raise GuardError(
            f"{_NAME}: got a drop of {drop:g} points, which {MAX_SAMPLES:,} samples cannot promise for {checks:,} "
            f"checks and {refusals:,} refusals; wanted a larger drop, a smaller tolerance, or fewer checks before the "
            "probe is renewed"
        )
    low, high = 1, MAX_SAMPLES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def guard_bound(
    samples: int,
    *,
    tolerance: float = 1.0,
    checks: int = 1000,
    refusals: int = 0,
    held_out_refusals: int = 0,
    churn: float = 5.0,
    confidence: float = 0.95,
) -> DetectionBound:
    """The bound of `taster.guard` on a probe of so many samples of a classifier, by its own alpha."""
    samples = min(samples, MAX_SAMPLES)
    held_out = held_out_samples(samples)
    return detection_bound(
        samples,
        tolerance=tolerance,
        # Samples that are held out have one test, the others share theirs with the classes.
        alpha=_ALPHA / 2 if held_out else _ALPHA / 2 / _TESTS,
        checks=checks,
        refusals=refusals,
        confidence=confidence,
        churn=churn,
        outcomes=_OUTCOMES,
        held_out=held_out,
        held_out_refusals=held_out_refusals if held_out else 0,
    )
