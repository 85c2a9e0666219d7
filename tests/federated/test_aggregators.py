"""Each rule against its definition written out in float64; in any order; in bounded memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from taster.core.param_vectors import finite_rows
from taster.errors import SettingError, SmallBatchError
from taster.federated import (
    AGGREGATORS,
    bulyan,
    centered_clipping,
    geometric_median,
    krum,
    nearest_neighbor_mixing,
)
from taster.federated.aggregators import column_blocks
from taster.federated.aggregators.coordinate_wise import mean_around_median
from taster.federated.aggregators.fltrust import TrustWeightedMean
from taster.federated.aggregators.pairwise import PairwiseGeometry, gram, squared_norms

Rows = list[list[float]]


def squared(a: list[float], b: list[float]) -> float:
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def column_mean(rows: Rows) -> list[float]:
    return [math.fsum(column) / len(column) for column in zip(*rows, strict=True)]


def brute_mean(rows: Rows, weights: list[float]) -> list[float]:
    return [
        math.fsum(w * v for w, v in zip(weights, column, strict=True)) / math.fsum(weights)
        for column in zip(*rows, strict=True)
    ]


def brute_median(rows: Rows, weights: list[float]) -> list[float]:
    ordered = [sorted(column) for column in zip(*rows, strict=True)]
    return [(c[(len(c) - 1) // 2] + c[len(c) // 2]) / 2 for c in ordered]


def brute_trimmed(rows: Rows, weights: list[float], f: int) -> list[float]:
    return [math.fsum(sorted(c)[f : len(c) - f]) / (len(c) - 2 * f) for c in zip(*rows, strict=True)]


def krum_scores(rows: Rows, f: int) -> list[float]:
    count = max(1, len(rows) - f - 2)
    return [math.fsum(sorted(squared(a, b) for j, b in enumerate(rows) if j != i)[:count]) for i, a in enumerate(rows)]


def brute_krum(rows: Rows, weights: list[float], f: int) -> list[float]:
    def key(i: int) -> list[float]:  # each other's nearest have the same score: the next neighbor decides
        apart = sorted(squared(rows[i], b) for j, b in enumerate(rows) if j != i)
        return [math.fsum(apart[:count]) for count in range(max(1, len(rows) - f - 2), len(rows))]

    return rows[min(range(len(rows)), key=key)]


def brute_multi_krum(rows: Rows, weights: list[float], f: int) -> list[float]:
    found = krum_scores(rows, f)
    best = sorted(range(len(rows)), key=lambda i: found[i])[: len(rows) - f]
    return column_mean([rows[i] for i in best])


def brute_bulyan(rows: Rows, weights: list[float], f: int) -> list[float]:
    left, chosen = list(rows), []
    for _ in range(len(rows) - 2 * f):
        best = brute_krum(left, weights, f) if len(left) > 1 else left[0]
        chosen.append(best)
        left.remove(best)
    middle = brute_median(chosen, weights)
    out = []
    for column, center in zip(zip(*chosen, strict=True), middle, strict=True):
        near = sorted(column, key=lambda v: abs(v - center))[: len(chosen) - 2 * f]
        out.append(math.fsum(near) / len(near))
    return out


def brute_mixing(rows: Rows, f: int) -> Rows:
    return [
        column_mean(sorted(rows, key=lambda other, own=own: squared(own, other))[: len(rows) - f])  # type: ignore[misc]
        for own in rows
    ]


def brute_clip(rows: Rows, bound: float, norm: str) -> Rows:
    def size(row: list[float]) -> float:
        return math.sqrt(math.fsum(v * v for v in row)) if norm == "l2" else max(abs(v) for v in row)

    return [[v * min(1.0, bound / size(row)) for v in row] for row in rows]


def brute_centered_clipping(rows: Rows, weights: list[float], bound: float, steps: int) -> list[float]:
    v = [0.0] * len(rows[0])
    for _ in range(steps):
        moves = []
        for row in rows:
            size = math.sqrt(squared(row, v))
            share = min(1.0, bound / size) if size else 1.0
            moves.append([(a - b) * share for a, b in zip(row, v, strict=True)])
        v = [a + b for a, b in zip(v, column_mean(moves), strict=True)]
    return v


RULES = {
    "mean": ({}, brute_mean),
    "coordinate_median": ({}, brute_median),
    "trimmed_mean": ({"num_byzantine": 2}, lambda r, w: brute_trimmed(r, w, 2)),
    "krum": ({"num_byzantine": 2}, lambda r, w: brute_krum(r, w, 2)),
    "multi_krum": ({"num_byzantine": 2}, lambda r, w: brute_multi_krum(r, w, 2)),
    "bulyan": ({"num_byzantine": 2}, lambda r, w: brute_bulyan(r, w, 2)),
    "centered_clipping": ({"clip_radius": 1.5, "iterations": 3}, lambda r, w: brute_centered_clipping(r, w, 1.5, 3)),
    "nearest_neighbor_mixing": ({"num_byzantine": 2}, lambda r, w: brute_median(brute_mixing(r, 2), w)),
    "update_clipping": ({"max_norm": 2.0}, lambda r, w: brute_mean(brute_clip(r, 2.0, "l2"), w)),
}


BOUNDS = {"centered_clipping": "clip_radius", "update_clipping": "max_norm"}


def setting(m: int, d: int = 13, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(m, d, generator=g, dtype=torch.float64)
    values[0] *= 50  # one that lies far out
    return values, torch.rand(m, generator=g, dtype=torch.float64) + 0.1


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


def every_rule() -> list[tuple[str, object]]:
    found = [(name, AGGREGATORS[name](**options)) for name, (options, _) in RULES.items()]
    return [*found, ("geometric_median", geometric_median()), ("fltrust", TrustWeightedMean(torch.linspace(-1, 2, 13)))]


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


class Largest(TorchDispatchMode):
    """Watches how many numbers the largest tensor has that anything computes; views of others do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in before:
                self.numbers = max(self.numbers, t.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "rule"), [*every_rule(), ("fltrust", TrustWeightedMean(torch.linspace(-1, 2, 1000)))])
def test_blocks_of_columns_change_nothing_and_stay_small(name: str, rule, dtype, monkeypatch) -> None:
    if name == "fltrust":
        rule = TrustWeightedMean(torch.linspace(-1, 2, 1000, dtype=dtype))
    values, weights = (t.to(dtype) for t in setting(11, d=1000))
    whole = rule(values, weights)
    monkeypatch.setitem(column_blocks._NUMBERS, "cpu", 11 * 7)
    with Largest() as largest:
        found = rule(values, weights)
    torch.testing.assert_close(found, whole)
    assert largest.numbers <= 1000  # the result; blocks have 77 numbers, pairs of clients 121
    with Largest() as largest:
        values.isfinite().all(1)
    assert largest.numbers == 11_000  # such a mask would be seen


NASTY = {
    "close together, far from zero": lambda v: 1000 + 1e-3 * v,
    "a liar far out": lambda v: torch.cat([v[:1] * 1e6, v[1:]]),
    "twins": lambda v: torch.cat([v[:6], v[1:6]]),
    "equal but for signs": lambda v: 0.1 * v.sign(),
    "squares over the range of float32": lambda v: torch.cat([v[:1] * 1e25, v[1:]]),
    "squares under it": lambda v: 1e-25 * v,
    "one of nothing but zeros": lambda v: torch.cat([0 * v[:1], v[1:]]),
}


@pytest.mark.parametrize("case", NASTY)
@pytest.mark.parametrize(
    ("name", "bound"),
    [*((name, 0.5) for name in [*RULES, "fltrust"]), ("centered_clipping", 1e4), ("update_clipping", 1e4)],
)
def test_float32_holds_what_is_hard_for_it(name: str, case: str, bound: float, monkeypatch) -> None:
    g = torch.Generator().manual_seed(3)
    values = NASTY[case](torch.randn(11, 300, generator=g)).float()
    exact, weights = values.double(), torch.ones(11)
    monkeypatch.setitem(column_blocks._NUMBERS, "cpu", 11 * 64)
    options = dict(RULES.get(name, ({},))[0])
    if name in BOUNDS:
        options[BOUNDS[name]] = bound * float(exact[1].norm())
    make = (lambda **_: TrustWeightedMean(values[2])) if name == "fltrust" else AGGREGATORS[name]
    found = make(**options)(values, weights)
    expected = brute(name, exact, options)
    # Of a sum no more can be asked than float32 has of its largest term.
    scale = (
        float(exact.abs().amax())
        if name in ("mean", "centered_clipping") and bound > 1
        else float(expected.abs().max())
    )
    torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=3e-6 * scale)


def brute(name: str, exact: torch.Tensor, options: dict) -> torch.Tensor:
    if name == "fltrust":
        cosines = torch.nn.functional.cosine_similarity(exact, exact[2:3], dim=1, eps=0).nan_to_num().clamp_min(0)
        unit = torch.nn.functional.normalize(exact, dim=1, eps=1e-300)
        return (cosines[:, None] * unit).sum(0) / cosines.sum() * exact[2].norm()
    rows, weights = exact.tolist(), [1.0] * len(exact)
    if name == "centered_clipping":
        return torch.tensor(brute_centered_clipping(rows, weights, options["clip_radius"], 3), dtype=torch.float64)
    if name == "update_clipping":
        sizes = torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp_min(1e-300)
        return (exact * (options["max_norm"] / sizes).clamp_max(1)).mean(0)
    return torch.tensor(RULES[name][1](rows, weights), dtype=torch.float64)


@pytest.mark.parametrize("number", [0.1, 1 / 3, 0.7, 1.1])
def test_norms_and_products_of_many_equal_numbers_do_not_drift(number: float) -> None:
    values = torch.full((3, 400_000), number)
    square = values[0].double().square().sum()
    torch.testing.assert_close(squared_norms(values), square.expand(3), rtol=1e-6, atol=0)
    z = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    torch.testing.assert_close(PairwiseGeometry(values).inner_products(z), square.expand(3), rtol=1e-6, atol=0)


def test_trust_that_is_hardly_there_is_taken_in_float64() -> None:
    g = torch.Generator().manual_seed(0)
    values, own = torch.randn(9, 4000, generator=g), torch.zeros(4000)
    own[:2000] = 1.0
    values[:, :2000] -= values[:, :2000].double().mean(1, keepdim=True).float() - 1e-7  # cosines of some 1e-7
    cosines = (values.double() @ own.double() / own.double().norm() / values.double().norm(dim=1)).clamp_min(0)
    assert 0 < float(cosines.sum()) < 1e-5
    unit = values.double() / values.double().norm(dim=1, keepdim=True)
    expected = own.double().norm() * (cosines @ unit) / cosines.sum()
    torch.testing.assert_close(TrustWeightedMean(own)(values, torch.ones(9)).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20])
def test_centered_clipping_is_its_definition_for_few_steps_and_many(steps: int) -> None:
    values, weights = setting(12)
    expected = torch.tensor(brute_centered_clipping(values.tolist(), [], 1.5, steps), dtype=torch.float64)
    rule = centered_clipping(clip_radius=1.5, iterations=steps)
    torch.testing.assert_close(rule(values, weights), expected)
    torch.testing.assert_close(rule(values.float(), weights.float()).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_the_nearest_to_the_median_among_ties_are_the_smaller(count: int) -> None:
    g = torch.Generator().manual_seed(0)
    part = torch.randint(-3, 4, (9, 500), generator=g).double()  # full of ties
    found = mean_around_median(count)(part)
    for column, mean_of_nearest in zip(part.t().tolist(), found.tolist(), strict=True):
        middle = sorted(column)[4]
        near = sorted(column, key=lambda v, middle=middle: (abs(v - middle), v))[:count]
        assert mean_of_nearest == pytest.approx(math.fsum(near) / count, abs=1e-12)


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


def test_the_gram_matrix_is_exact() -> None:
    values = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(values), values.double() @ values.double().t(), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("m", [1, 23, 24, 25, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_make_up_the_whole_gram_matrix(m: int, dtype: torch.dtype) -> None:
    values = torch.randn(m, 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = gram(values)
    assert torch.equal(found, found.t())
    torch.testing.assert_close(found, values.double() @ values.double().t(), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_rows_are_those_without_nan_and_infinity_however_large_their_numbers(dtype: torch.dtype) -> None:
    values = torch.ones(6, 70, dtype=dtype)
    values[1, 3] = math.nan
    values[2, 69] = math.inf
    values[3, :2] = torch.tensor([math.inf, -math.inf])
    values[4] = torch.finfo(dtype).max  # the sum is infinite, no number is
    values[5, 0] = -math.inf
    assert finite_rows(values).tolist() == [True, False, False, False, True, False]
