"""Sums of paired differences: the tests that are made of them are the textbook's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from taster.stats.paired_sums import Comparison, PairedSums, stacked, sums_on_device

N, CLASSES = 400, 4


def drawn(seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Two models on the same samples: the second one is a little worse."""
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, CLASSES, (N,), generator=g)
    correct, probability = torch.rand(N, generator=g) < 0.8, torch.rand(N, generator=g)
    flipped = torch.rand(N, generator=g) < 0.2
    after = {
        "correct": torch.where(flipped, ~correct, correct),
        "probability": probability - 0.03 + 0.3 * torch.randn(N, generator=g),
    }
    return {"correct": correct, "probability": probability}, after, codes


KINDS = {"correct": True, "probability": False}


def summed(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], codes: torch.Tensor | None
) -> dict[str, PairedSums]:
    return compared([before], after, codes).drops[0]


def compared(
    before: list[dict[str, torch.Tensor]], after: dict[str, torch.Tensor], codes: torch.Tensor | None
) -> Comparison:
    sums = sums_on_device([stacked(state) for state in before], stacked(after), codes, torch.arange(CLASSES))
    return Comparison.of(
        {name: values.dtype == torch.bool for name, values in after.items()}, sums.numpy(), len(before)
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_tests_are_those_of_scipy_overall_and_in_each_class(seed: int) -> None:
    before, after, codes = drawn(seed)
    sums = summed(before, after, codes)
    assert sums["correct"].groups == 1 + CLASSES
    tested = 0
    for group in range(1 + CLASSES):
        rows = torch.ones(N, dtype=torch.bool) if group == 0 else codes == group - 1
        was, now = before["correct"][rows], after["correct"][rows]
        lost, gained = int((was & ~now).sum()), int((~was & now).sum())
        drop = (lost - gained) / int(rows.sum())
        assert sums["correct"].count[group] == rows.sum()
        assert sums["correct"].drop(group) == pytest.approx(drop, abs=1e-12)
        worse = scipy.stats.binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
        better = scipy.stats.binomtest(gained, lost + gained, 0.5, alternative="greater").pvalue
        assert sums["correct"].pvalue(group) == pytest.approx(worse if drop > 0 else 1.0, rel=1e-9)
        assert sums["correct"].gain_pvalue(group) == pytest.approx(better if drop < 0 else 1.0, rel=1e-9)

        was, now = before["probability"][rows].double().numpy(), after["probability"][rows].double().numpy()
        drop = float((was - now).mean())
        numbers = sums["probability"]
        assert numbers.drop(group) == pytest.approx(drop, rel=1e-9)
        assert numbers.error(group) == pytest.approx(float(scipy.stats.sem(was - now)), rel=1e-9)
        worse = scipy.stats.ttest_rel(was, now, alternative="greater").pvalue
        assert numbers.pvalue(group) == pytest.approx(worse if drop > 0 else 1.0, rel=1e-6)
        assert numbers.gain_pvalue(group) == pytest.approx(1 - worse if drop < 0 else 1.0, rel=1e-6)
        tested += drop > 0
    assert tested >= 2


@pytest.mark.parametrize("with_classes", [True, False])
def test_sums_of_parts_add_up_to_those_of_the_whole(with_classes: bool) -> None:
    before, after, codes = drawn(7)
    whole = summed(before, after, codes if with_classes else None)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    parts = [
        summed(
            {k: v[rows] for k, v in before.items()},
            {k: v[rows] for k, v in after.items()},
            codes[rows] if with_classes else None,
        )
        for rows in order.split([3, 100, 257, 40])
    ]
    for name, kind in KINDS.items():
        added = parts[0][name] + parts[1][name] + parts[2][name] + parts[3][name]
        assert added.yes_or_no is kind
        for field in ("count", "total", "squares"):
            np.testing.assert_allclose(getattr(added, field), getattr(whole[name], field), rtol=1e-12)
        assert added.pvalue() == pytest.approx(whole[name].pvalue(), rel=1e-9)


def test_too_few_samples_tell_nothing() -> None:
    before = {"correct": torch.tensor([True]), "probability": torch.tensor([0.9])}
    after = {"correct": torch.tensor([False]), "probability": torch.tensor([0.1])}
    for sums in summed(before, after, None).values():
        assert (sums.pvalue(), sums.gain_pvalue(), sums.error()) == (1.0, 1.0, math.inf)
    nothing = PairedSums(False, np.zeros(1), np.zeros(1), np.zeros(1))
    assert (nothing.drop(), nothing.pvalue(), nothing.error()) == (0.0, 1.0, math.inf)
    # A class without samples beside one with some.
    sums = summed(*drawn(0)[:2], torch.zeros(N, dtype=torch.long))["probability"]
    assert sums.count.tolist() == [N, N, 0, 0, 0]
    assert (sums.drop(2), sums.pvalue(2)) == (0.0, 1.0)
    assert sums.pvalue(1) == pytest.approx(sums.pvalue(0), rel=1e-6)
    assert sums.pvalue(0) < 0.01


def test_the_same_drop_everywhere_is_beyond_doubt() -> None:
    sums = PairedSums(False, np.array([10.0]), np.array([5.0]), np.array([2.5]))
    assert (sums.drop(), sums.error(), sums.pvalue(), sums.gain_pvalue()) == (0.5, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("with_classes", [True, False])
def test_comparisons_with_several_states_are_those_with_each(with_classes: bool) -> None:
    before, after, codes = drawn(3)
    other = drawn(4)[0]
    groups = codes if with_classes else None
    found = compared([before, other], after, groups)
    assert found.after == {name: pytest.approx(float(values.double().sum())) for name, values in after.items()}
    for drops, state in zip(found.drops, (before, other), strict=True):
        alone = summed(state, after, groups)
        for name in KINDS:
            assert drops[name].yes_or_no is KINDS[name]
            for field in ("count", "total", "squares"):
                np.testing.assert_allclose(getattr(drops[name], field), getattr(alone[name], field), rtol=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sum_says_that_one_of_its_numbers_is_not_finite(value: float) -> None:
    before, after, codes = drawn(5)
    after["probability"][17] = value
    found = compared([before], after, codes)
    assert math.isfinite(found.after["correct"])
    assert not math.isfinite(found.after["probability"])
    assert found.drops[0]["correct"].pvalue() == summed(before, drawn(5)[1], codes)["correct"].pvalue()


def test_quantities_of_different_lengths_have_their_own_counts() -> None:
    before = {"hits": torch.tensor([1.0, 1.0, 1.0]), "ranks": torch.tensor([2.0, 4.0])}
    after = {"hits": torch.tensor([0.5, 1.0, 0.0]), "ranks": torch.tensor([1.0, 4.0])}
    hits, ranks = (compared([{name: before[name]}], {name: after[name]}, None) for name in ("hits", "ranks"))
    found = hits.and_of(ranks).drops[0]
    assert (found["hits"].count.tolist(), found["hits"].drop()) == ([3.0], 0.5)
    assert (found["ranks"].count.tolist(), found["ranks"].drop()) == ([2.0], 0.5)


def test_samples_that_count_overall_or_in_their_class_alone() -> None:
    before, after, codes = drawn(5)
    overall, by_class = torch.arange(N) < 300, torch.arange(N) >= 100
    every = torch.arange(CLASSES)
    whole = sums_on_device([stacked(before)], stacked(after), codes, every, overall, by_class)
    for group, rows in enumerate([overall, *(by_class & (codes == code) for code in every)]):
        own = {name: values[rows] for name, values in before.items()}, {name: v[rows] for name, v in after.items()}
        torch.testing.assert_close(whole[:, group], sums_on_device([stacked(own[0])], stacked(own[1]))[:, 0])
    # Broken ones are found wherever they count.
    after["probability"][-1] = math.nan
    broken = sums_on_device([stacked(before)], stacked(after), codes, every, overall, by_class)
    assert broken[2, 0].isnan()
