"""Clopper-Pearson intervals: against the definition, by sums of the binomial distribution."""

from __future__ import annotations

from math import comb

import pytest

from taster.errors import SettingError
from taster.stats.proportion import Proportion


def at_least(k: int, n: int, p: float) -> float:
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n"), [(1, 10), (5, 10), (9, 10), (3, 40)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_each_end_leaves_half_of_the_rest(k: int, n: int, confidence: float) -> None:
    low, high = Proportion(k, n).interval(confidence)
    assert at_least(k, n, low) == pytest.approx((1 - confidence) / 2, rel=1e-6)
    assert 1 - at_least(k + 1, n, high) == pytest.approx((1 - confidence) / 2, rel=1e-6)


def test_none_and_all() -> None:
    assert Proportion(0, 10).interval() == (0.0, pytest.approx(1 - 0.025**0.1))
    assert Proportion(10, 10).interval() == (pytest.approx(0.025**0.1), 1.0)
    assert Proportion(8, 10).text() == "80 (44 to 97)"


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_what_is_no_count_is_told(k: int, n: int) -> None:
    with pytest.raises(SettingError, match=f"got {k} successes of {n} trials"):
        Proportion(k, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_what_is_no_confidence_is_told(confidence: float) -> None:
    with pytest.raises(SettingError, match="confidence: got"):
        Proportion(1, 2).interval(confidence)
