"""Paired tests: seldom wrong about what does no harm, strong against what does."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, ttest_rel

from taster.stats.paired_tests import mcnemar_pvalue, paired_t_pvalue


def outcomes(n: int, lost: float, gained: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right before and after, where samples are lost and gained with these chances."""
    fate = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    before = fate >= gained
    after = (before | (fate < gained)) & (fate <= 1 - lost)
    return before, after


@pytest.mark.parametrize(("lost", "gained", "tolerance"), [(0.05, 0.05, 0.0), (0.02, 0.01, 0.02), (0.12, 0.1, 0.03)])
def test_a_drop_within_the_tolerance_is_rarely_significant(lost: float, gained: float, tolerance: float) -> None:
    found = [mcnemar_pvalue(*outcomes(300, lost, gained, seed), tolerance) for seed in range(1000)]
    for level in (0.1, 0.05, 0.01):
        # three deviations of a thousand draws
        assert sum(p < level for p in found) / len(found) <= level + 3 * (level / len(found)) ** 0.5


def test_larger_drops_are_found_more_often() -> None:
    seen = [
        sum(mcnemar_pvalue(*outcomes(1000, lost, 0.01, seed), 0.01) < 0.01 for seed in range(100))
        for lost in (0.02, 0.04, 0.06)
    ]
    assert seen == sorted(seen)
    assert seen[0] < 5
    assert seen[-1] >= 99


def test_without_a_tolerance_they_are_mcnemars_and_students_tests() -> None:
    before, after = outcomes(200, 0.1, 0.04, 3)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    assert mcnemar_pvalue(before, after) == pytest.approx(binomtest(lost, lost + gained, alternative="greater").pvalue)
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, generator=g), torch.rand(50, generator=g)
    assert paired_t_pvalue(a, b) == pytest.approx(ttest_rel(a.double(), b.double(), alternative="greater").pvalue)
    assert paired_t_pvalue(a, b - 0.3, 0.3) == pytest.approx(paired_t_pvalue(a, b), rel=1e-4)


def test_samples_without_any_variance() -> None:
    right, wrong = torch.ones(9, dtype=torch.bool), torch.zeros(9, dtype=torch.bool)
    assert mcnemar_pvalue(right, right) == mcnemar_pvalue(wrong, right) == 1
    assert mcnemar_pvalue(right, wrong) == pytest.approx(2**-9)
    assert mcnemar_pvalue(right, wrong, 1.0) == 1
    assert mcnemar_pvalue(right[:0], wrong[:0]) == paired_t_pvalue(torch.ones(1), torch.zeros(1)) == 1
    assert paired_t_pvalue(torch.ones(5), torch.zeros(5)) == 0
    assert paired_t_pvalue(torch.ones(5), torch.ones(5)) == 1
