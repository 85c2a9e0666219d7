"""Each rule against its definition written out in float64; in any order; in bounded memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taster.errors import SettingError, SmallBatchError
from taster.federated import AGGREGATORS, bulyan, centred_clipping, geometric_median, krum, nearest_neighbour_mixing
from taster.federated import geometry as geometry_module
from taster.federated.fltrust import TrustIn
from taster.federated.geometry import Geometry, gram

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
    def key(i: int) -> list[float]:  # each other's nearest have the same score: the next neighbour decides
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
    for column, centre in zip(zip(*chosen, strict=True), middle, strict=True):
        near = sorted(column, key=lambda v: abs(v - centre))[: len(chosen) - 2 * f]
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


def brute_centred_clipping(rows: Rows, weights: list[float], bound: float, steps: int) -> list[float]:
    v = [0.0] * len(rows[0])
    for _ in range(steps):
        moves = []
        for row in rows:
            size = math.sqrt(squared(row, v))
            moves.append([(a - b) * min(1.0, bound / size) for a, b in zip(row, v, strict=True)])
        v = [a + b for a, b in zip(v, column_mean(moves), strict=True)]
    return v


RULES = {
    "mean": ({}, brute_mean),
    "coordinate_median": ({}, brute_median),
    "trimmed_mean": ({"byzantine": 2}, lambda r, w: brute_trimmed(r, w, 2)),
    "krum": ({"byzantine": 2}, lambda r, w: brute_krum(r, w, 2)),
    "multi_krum": ({"byzantine": 2}, lambda r, w: brute_multi_krum(r, w, 2)),
    "bulyan": ({"byzantine": 2}, lambda r, w: brute_bulyan(r, w, 2)),
    "centred_clipping": ({"bound": 1.5, "steps": 3}, lambda r, w: brute_centred_clipping(r, w, 1.5, 3)),
    "nearest_neighbour_mixing": ({"byzantine": 2}, lambda r, w: brute_median(brute_mixing(r, 2), w)),
    "update_clipping": ({"bound": 2.0}, lambda r, w: brute_mean(brute_clip(r, 2.0, "l2"), w)),
}


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
    torch.testing.assert_close(nearest_neighbour_mixing(byzantine=2, then=then)(values, weights), expected)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("then", ["mean", "coordinate_median", "krum"])
def test_clipping_comes_before_any_rule(norm: str, then: str) -> None:
    values, weights = setting(12)
    rule = AGGREGATORS["update_clipping"](bound=1.2, norm=norm, then=then, byzantine=2)
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
    torch.testing.assert_close(TrustIn(own)(values, weights), expected)
    assert torch.equal(TrustIn(-values[0])(values[:1], weights[:1]), torch.zeros(13, dtype=torch.float64))


def every_rule() -> list[tuple[str, object]]:
    found = [(name, AGGREGATORS[name](**options)) for name, (options, _) in RULES.items()]
    return [*found, ("geometric_median", geometric_median()), ("fltrust", TrustIn(torch.linspace(-1, 2, 13)))]


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
    torch.testing.assert_close(Geometry(values).distances[1:, 1:], truth[1:, 1:], rtol=1e-2, atol=1e-7)
    expected = brute_krum(values.double().tolist(), [1.0] * 9, 2)
    assert krum(byzantine=2)(values, torch.ones(9)).double().tolist() == expected


@pytest.mark.parametrize("name", [name for name in AGGREGATORS if name != "fltrust"])
def test_blocks_of_columns_change_nothing_and_stay_small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RULES[name][0] if name in RULES else {}
    values, weights = setting(11, d=1000)
    whole = AGGREGATORS[name](**options)(values, weights)
    monkeypatch.setattr(geometry_module, "_BLOCK", 11 * 7)
    seen: list[int] = []
    plain = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda self: (seen.append(self.numel()), plain(self))[1])
    torch.testing.assert_close(AGGREGATORS[name](**options)(values, weights), whole)
    assert max(seen, default=0) <= 11 * 11  # a block, or one number for each pair of clients


@pytest.mark.parametrize(
    ("rule", "least"),
    [(krum(byzantine=2), 7), (bulyan(byzantine=2), 11), (AGGREGATORS["trimmed_mean"](byzantine=2), 5)],
)
def test_too_few_clients_are_an_error_that_says_how_many_are_wanted(rule, least: int) -> None:
    values, weights = setting(least)
    assert rule(values, weights).shape == (13,)
    with pytest.raises(SmallBatchError, match=f"wanted at least {least}"):
        rule(values[1:], weights[1:])


def test_settings_are_checked() -> None:
    for make in (lambda: krum(byzantine=-1), lambda: centred_clipping(bound=0.0), lambda: krum(byzantin=1)):
        with pytest.raises((SettingError, TypeError)):
            make()


def test_the_gram_matrix_is_exact() -> None:
    values = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(values), values.double() @ values.double().t(), rtol=1e-12, atol=1e-9)
