"""How much changes swing: against plain loops, and what an error of measurement takes away."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from taster.stats.swing import ENOUGH, WINDOW, Swing


def swing_of(changes: list[float], errors: list[float] | float = 0.0) -> Swing:
    swing = Swing.empty(1)
    for i, change in enumerate(changes):
        error = errors if isinstance(errors, float) else errors[i]
        swing = swing.with_change(np.array([change]), np.array([error]))
    return swing


def quantile(values: list[float], q: float) -> float:
    """With linear interpolation between the order statistics."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def plainly(changes: list[float], errors: list[float]) -> tuple[float, float]:
    """Centre and scale, by the definition."""
    known = [(c, e) for c, e in zip(changes, errors, strict=True) if math.isfinite(c) and math.isfinite(e)][-WINDOW:]
    centre = statistics.median(c for c, _ in known)
    far = [abs(c - centre) for c, _ in known]
    width = max(quantile(far, 0.9), quantile(far[-20:], 0.9)) / 1.6449
    noise = statistics.median(e**2 for _, e in known)
    return centre, math.sqrt(max(0.0, width**2 - noise))


@pytest.mark.parametrize("count", [ENOUGH, 25, WINDOW, 2 * WINDOW + 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_scale_and_limit_are_those_of_a_plain_loop(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    changes = (0.02 * draw.standard_t(3, count) + 0.003).tolist()
    errors = (0.002 + 0.004 * draw.random(count)).tolist()
    swing = swing_of(changes, errors)
    centre, scale = plainly(changes[-WINDOW:], errors[-WINDOW:])
    assert scale > 0.005
    assert swing.scale[0] == pytest.approx(scale, rel=1e-9)
    none, many = np.array([-1.0]), np.array([5.0])
    assert swing.limit(none, none, many)[0] == pytest.approx(centre + 5 * scale, rel=1e-9)


def test_of_normal_changes_the_scale_is_the_standard_deviation() -> None:
    scales = [swing_of((0.3 * np.random.default_rng(i).standard_normal(WINDOW)).tolist()).scale[0] for i in range(300)]
    assert np.mean(scales) == pytest.approx(0.3, rel=0.05)


def test_an_error_of_measurement_is_no_swing() -> None:
    """True changes swing by 0.03; measured with an error of 0.04 they swing by 0.05."""
    draw = np.random.default_rng(0)

    def mean_scale(said: float) -> float:
        squares = []
        for _ in range(200):
            changes = 0.03 * draw.standard_normal(WINDOW) + 0.04 * draw.standard_normal(WINDOW)
            squares.append(float(swing_of(changes.tolist(), said).scale[0]) ** 2)
        return float(np.mean(squares)) ** 0.5

    assert mean_scale(0.04) == pytest.approx(0.03, rel=0.1)
    assert mean_scale(0.0) == pytest.approx(0.05, rel=0.1)
    assert swing_of([0.01 * (-1) ** i for i in range(WINDOW)], 1.0).scale[0] == 0.0


def test_of_looks_that_mostly_see_no_change_the_scale_is_not_the_least_that_they_can_see() -> None:
    """A model that does not change at all, and looks of 128 samples of which one in five finds one flip."""
    draw, scales = np.random.default_rng(1), []
    for _ in range(50):
        flips = draw.choice([-1.0, 0.0, 1.0], WINDOW, p=[0.1, 0.8, 0.1]) / 128
        swing = Swing.empty(1)
        for flip in flips:
            swing = swing.with_change(np.array([flip]), np.array([abs(flip)]))
        scales.append(swing.scale[0])
    # By the quantile it would be the size of one flip, 1 / 128 / 1.64, nearly always.
    assert np.mean(scales) < 0.2 / 128
    # A wild change among the still ones is no scale, whatever their mean square is.
    assert swing.with_change(np.array([0.5]), np.array([0.02])).scale[0] <= 1 / 128


def test_only_the_last_changes_count() -> None:
    wild, calm = [(-1.0) ** i for i in range(WINDOW)], [0.01 * (-1) ** i for i in range(WINDOW)]
    swing = swing_of(wild + calm)
    assert swing.changes.shape == (WINDOW, 1, 2)
    np.testing.assert_array_equal(swing.changes, swing_of(calm).changes)
    assert swing.scale[0] == pytest.approx(0.01 / 1.6449)
    # One wild change among the last ones is an outlier, and not the scale.
    assert swing_of([*calm, 1.0]).scale[0] == pytest.approx(0.01 / 1.6449, rel=1e-6)


def test_before_enough_changes_the_limit_is_the_one_for_the_unknown() -> None:
    least, unknown, multiple = np.array([0.1]), np.array([0.7]), np.array([2.0])
    tiny = [1e-4 * (-1) ** i for i in range(ENOUGH)]
    assert np.isinf(Swing.empty(1).scale).all()
    assert Swing.empty(1).limit(least, unknown, multiple)[0] == 0.7
    assert np.isinf(swing_of(tiny[:-1]).scale).all()
    assert swing_of(tiny[:-1]).limit(least, unknown, multiple)[0] == 0.7
    # A scale of a few changes is not trusted where it is small.
    assert swing_of(tiny).limit(least, unknown, multiple)[0] == 0.7
    assert swing_of(tiny).limit(least, np.array([np.inf]), multiple)[0] == 0.1
    assert swing_of([1e-4 * (-1) ** i for i in range(20)]).limit(least, unknown, multiple)[0] == 0.1
    # A few wild changes are more than is said of the unknown.
    assert swing_of([3.0, -3.0, 3.0]).limit(least, unknown, multiple)[0] > 3.0


def test_groups_are_apart_and_one_that_was_not_seen_counts_for_nothing() -> None:
    swing = Swing.empty(3)
    for i in range(20):
        drops = np.array([0.1 * (-1) ** i, 0.5 * (-1) ** i if i % 2 else np.nan, np.nan])
        errors = np.array([0.0, 0.0, 0.0 if i else np.inf])
        swing = swing.with_change(drops, errors)
    seen_alone = swing_of([0.5 * (-1) ** i for i in range(20) if i % 2])
    assert swing.scale[0] == pytest.approx(0.1 / 1.6449)
    assert swing.scale[1] == seen_alone.scale[0]
    assert np.isinf(swing.scale[2])
    assert swing.limit(np.full(3, 0.0), np.full(3, 9.0), np.full(3, 1.0))[2] == 9.0
