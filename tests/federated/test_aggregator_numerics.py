"""What float32 and blocks of columns leave unchanged: hard numbers, bounded memory, ties."""

from __future__ import annotations

import math

import pytest
import torch
from tests.federated.brute_rules import BOUNDS, RULES, brute_centered_clipping, every_rule, setting
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from taster.errors import BatchError
from taster.federated import AGGREGATORS
from taster.federated.aggregators.coordinate_wise import mean_around_median
from taster.federated.aggregators.fltrust import TrustWeightedMean
from taster.stats import column_blocks
from taster.stats.pairwise import PairwiseGeometry, squared_norms


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


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_the_nearest_to_the_median_among_ties_are_the_smaller(count: int) -> None:
    g = torch.Generator().manual_seed(0)
    part = torch.randint(-3, 4, (9, 500), generator=g).double()  # full of ties
    found = mean_around_median(count)(part)
    for column, mean_of_nearest in zip(part.t().tolist(), found.tolist(), strict=True):
        middle = sorted(column)[4]
        near = sorted(column, key=lambda v, middle=middle: (abs(v - middle), v))[:count]
        assert mean_of_nearest == pytest.approx(math.fsum(near) / count, abs=1e-12)


@pytest.mark.parametrize("far", [1e6, 1e10, 1e25])
@pytest.mark.parametrize("twins", [False, True])
def test_however_far_a_liar_is_the_geometric_median_of_the_others_costs_no_digits(far: float, twins: bool) -> None:
    values = torch.randn(11, 500, generator=torch.Generator().manual_seed(0))
    if twins:
        values[5:10] = values[:5]
    direction = values[10] / values[10].norm()
    values[10] *= far
    found = AGGREGATORS["geometric_median"]()(values, torch.ones(11)).double()
    # Of so distant a point the directions to it from the others are one: with it, they cancel at the optimum.
    away = values[:10].double() - found
    pull = (away / away.norm(dim=1, keepdim=True)).sum(0) + direction.double()
    assert float(pull.norm()) < (1e-4 if far == 1e6 else 1e-5)


def test_a_majority_of_equal_updates_is_the_geometric_median_beside_a_far_liar() -> None:
    values = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    values[:5] = values[0]
    values[8] *= 1e12
    torch.testing.assert_close(AGGREGATORS["geometric_median"]()(values, torch.ones(9)), values[0])


@pytest.mark.parametrize(
    "name", ["krum", "multi_krum", "bulyan", "geometric_median", "nearest_neighbor_mixing", "update_clipping"]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rules_that_measure_distances_refuse_rows_that_are_not_finite(name: str, bad: float) -> None:
    values = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    values[3, 7] = bad
    with pytest.raises(BatchError, match=r"in rows \[3\], wanted finite ones; leave these clients out"):
        AGGREGATORS[name]()(values, torch.ones(9))
