"""Each rule against its definition written out in float64; in any order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federated.brute_rules import (
    RULES,
    brute_centered_clipping,
    brute_clip,
    brute_krum,
    brute_mixing,
    every_rule,
    setting,
)

from taster.errors import SettingError, SmallBatchError
from taster.federated import AGGREGATORS, bulyan, centered_clipping, geometric_median, krum, nearest_neighbor_mixing
from taster.federated.aggregators.fltrust import TrustWeightedMean
from taster.stats.pairwise import PairwiseGeometry


@pytest.mark.parametrize("m", [11, 12, 15])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_definition(name: str, m: int) -> None:
    options, brute = RULES[name]
    values, weights = setting(m)
    expected = torch.tensor(brute(values.tolist(), weights.tolist()), dtype=torch.float64)
    torch.testing.assert_close(AGGREGATORS[name](**options)(values, weights), expected)
    found = AGGREGATORS[name](**options)(values.float(), weights.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("then", ["mean", "krum", "multi_krum", "trimmed_mean", "bulyan"])
def test_mixing_comes_before_any_rule(then: str) -> None:
    values, weights = setting(12)
    brute = RULES[then][1]
    expected = torch.tensor(brute(brute_mixing(values.tolist(), 2), weights.tolist()), dtype=torch.float64)
    torch.testing.assert_close(nearest_neighbor_mixing(num_byzantine=2, aggregator=then)(values, weights), expected)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("then", ["mean", "coordinate_median", "krum"])
def test_clipping_comes_before_any_rule(norm: str, then: str) -> None:
    values, weights = setting(12)
    rule = AGGREGATORS["update_clipping"](max_norm=1.2, norm=norm, aggregator=then, num_byzantine=2)
    brute = RULES[then][1]
    expected = torch.tensor(brute(brute_clip(values.tolist(), 1.2, norm), weights.tolist()), dtype=torch.float64)
    torch.testing.assert_close(rule(values, weights), expected)


@pytest.mark.parametrize("m", [1, 2, 5, 12])
def test_the_geometric_median_has_the_least_sum_of_distances(m: int) -> None:
    values, weights = setting(m, d=4)
    found = geometric_median()(values, weights)

    def total(z: torch.Tensor) -> float:
        return float((weights * torch.linalg.vector_norm(values - z, dim=1)).sum())

    g = torch.Generator().manual_seed(1)
    for size in (1.0, 1e-2, 1e-4):
        for _ in range(50):
            assert total(found) <= total(found + size * torch.randn(4, generator=g, dtype=torch.float64)) + 1e-9
    away = (values - found) / torch.linalg.vector_norm(values - found, dim=1, keepdim=True).clamp_min(1e-12)
    at_one = float(torch.linalg.vector_norm(values - found, dim=1).min()) < 1e-6
    if not at_one:  # where it is none of the points, the weighted directions to them cancel
        assert float(torch.linalg.vector_norm(weights @ away)) < 1e-5


def test_fltrust_is_its_definition() -> None:
    values, weights = setting(9)
    own = values[3] + 0.5 * values[4]
    cosines = [torch.dot(v, own) / (v.norm() * own.norm()) for v in values]
    trust = torch.stack([c.clamp_min(0) for c in cosines])
    expected = sum(t * own.norm() * v / v.norm() for t, v in zip(trust, values, strict=True)) / trust.sum()
    torch.testing.assert_close(TrustWeightedMean(own)(values, weights), expected)
    assert torch.equal(TrustWeightedMean(-values[0])(values[:1], weights[:1]), torch.zeros(13, dtype=torch.float64))


@pytest.mark.parametrize(("name", "rule"), every_rule())
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_order_of_clients_does_not_matter(name: str, rule, seed: int) -> None:
    values, weights = setting(11, seed=seed)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(rule(values[order], weights[order]), rule(values, weights))


@pytest.mark.parametrize(("name", "rule"), every_rule())
def test_equal_updates_come_out_as_they_are_and_nothing_is_written_to_them(name: str, rule) -> None:
    row = torch.linspace(-0.2, 0.3, 13)
    values = row.repeat(11, 1)
    before = values.clone()
    found = rule(values, torch.ones(11))
    assert torch.equal(values, before)
    if name == "fltrust":
        row = row / row.norm() * torch.linspace(-1, 2, 13).norm()
    torch.testing.assert_close(found, row, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["coordinate_median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median"]
)
def test_two_liars_of_eleven_pull_a_robust_rule_no_further_than_the_honest_lie(name: str) -> None:
    values, weights = setting(11)
    values[:2] = 1e6
    options = RULES[name][0] if name in RULES else {}
    found = AGGREGATORS[name](**options)(values, weights)
    assert float(found.abs().max()) < 10
    assert float(AGGREGATORS["mean"]()(values, weights).abs().max()) > 1e4


def test_distances_of_updates_that_lie_close_together_beside_one_far_away_are_told_apart() -> None:
    g = torch.Generator().manual_seed(0)
    values = 1000 + 1e-3 * torch.randn(9, 50, generator=g)
    values[0] = 1e6
    truth = torch.cdist(values.double(), values.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(PairwiseGeometry(values).distances[1:, 1:], truth[1:, 1:], rtol=1e-2, atol=1e-7)
    expected = brute_krum(values.double().tolist(), [1.0] * 9, 2)
    assert krum(num_byzantine=2)(values, torch.ones(9)).double().tolist() == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20])
def test_centered_clipping_is_its_definition_for_few_steps_and_many(steps: int) -> None:
    values, weights = setting(12)
    expected = torch.tensor(brute_centered_clipping(values.tolist(), [], 1.5, steps), dtype=torch.float64)
    rule = centered_clipping(clip_radius=1.5, iterations=steps)
    torch.testing.assert_close(rule(values, weights), expected)
    torch.testing.assert_close(rule(values.float(), weights.float()).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "least"),
    [(krum(num_byzantine=2), 7), (bulyan(num_byzantine=2), 11), (AGGREGATORS["trimmed_mean"](num_byzantine=2), 5)],
)
def test_too_few_clients_are_an_error_that_says_how_many_are_wanted(rule, least: int) -> None:
    values, weights = setting(least)
    assert rule(values, weights).shape == (13,)
    with pytest.raises(SmallBatchError, match=f"wanted at least {least}"):
        rule(values[1:], weights[1:])


def test_settings_are_checked() -> None:
    for make in (
        lambda: krum(num_byzantine=-1),
        lambda: centered_clipping(clip_radius=0.0),
        lambda: krum(num_byzantin=1),
    ):
        with pytest.raises((SettingError, TypeError)):
            make()
