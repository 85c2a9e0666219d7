"""The simplex: projection and convex coefficients against brute force."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from torch import Tensor

from taster.attacks.targeted.convex_combination import convex_coefficients, project_to_simplex

DRAWS = torch.Generator().manual_seed(0)


def subsets(count: int) -> chain[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1))


def brute_force(points: Tensor, target: Tensor) -> float:
    """The least ½ ‖Σ c p − t‖² over the simplex: on each face the affine least squares, where it lies inside."""
    best = float("inf")
    for face in subsets(len(points)):
        own = points[list(face)]
        edges = (own[1:] - own[0]).T
        rest = torch.linalg.lstsq(edges, target - own[0]).solution if len(face) > 1 else target.new_zeros(0)
        c = torch.cat([1 - rest.sum(0, keepdim=True), rest])
        if bool((c >= -1e-12).all()):
            best = min(best, float((c @ own - target).square().sum() / 2))
    return best


def value(c: Tensor, points: Tensor, target: Tensor) -> float:
    return float((c @ points - target).square().sum() / 2)


def test_projection_is_nearest_of_a_fine_grid() -> None:
    steps = torch.linspace(0, 1, 201, dtype=torch.float64)
    a, b = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([a, b, 1 - a - b], -1).reshape(-1, 3)
    grid = grid[grid[:, 2] >= -1e-12]
    for values in torch.randn(40, 3, generator=DRAWS, dtype=torch.float64) * 2:
        found = project_to_simplex(values)
        assert float(found.sum()) == pytest.approx(1)
        assert float(found.min()) >= 0
        nearest = (grid - values).square().sum(1).min()
        assert float((found - values).square().sum()) <= float(nearest) + 1e-12
        assert float((found - values).square().sum()) >= float(nearest) - 0.05


def test_what_lies_on_the_simplex_stays_and_rows_do_not_meet() -> None:
    inside = torch.rand(5, 4, generator=DRAWS, dtype=torch.float64)
    inside /= inside.sum(1, keepdim=True)
    torch.testing.assert_close(project_to_simplex(inside), inside)
    others = torch.randn(2, 3, 4, generator=DRAWS, dtype=torch.float64)
    together = project_to_simplex(others)
    for i in range(2):
        for j in range(3):
            assert torch.equal(together[i, j], project_to_simplex(others[i, j]))
    assert project_to_simplex(torch.tensor([7.0])).tolist() == [1.0]


@pytest.mark.parametrize(("count", "width"), [(1, 3), (2, 1), (4, 2), (4, 6), (5, 3)])
def test_coefficients_reach_the_least_distance_over_all_faces(count: int, width: int) -> None:
    points = torch.randn(20, count, width, generator=DRAWS, dtype=torch.float64)
    targets = torch.randn(20, width, generator=DRAWS, dtype=torch.float64)
    found = convex_coefficients(points, targets, tolerance=1e-9)
    torch.testing.assert_close(found.sum(1), torch.ones(20, dtype=torch.float64))
    assert float(found.min()) >= 0
    for c, p, t in zip(found, points, targets, strict=True):
        least = brute_force(p, t)
        assert least - 1e-12 <= value(c, p, t) <= least + 1e-9 * float(t.square().sum()) + 1e-12


def test_a_target_in_the_hull_is_met_from_any_start() -> None:
    points = torch.randn(5, 3, generator=DRAWS, dtype=torch.float64)
    true = torch.tensor([0.3, 0.1, 0.4, 0.2, 0.0], dtype=torch.float64)
    start = torch.eye(5, dtype=torch.float64)[2]
    for begun in (None, start):
        found = convex_coefficients(points, true @ points, start=begun, tolerance=1e-10)
        torch.testing.assert_close(found @ points, true @ points, rtol=0, atol=1e-4)


def test_the_steps_are_bounded() -> None:
    points, target = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert convex_coefficients(points, target, max_steps=0).tolist() == [0.5, 0.5]
    assert convex_coefficients(points, target).tolist() == pytest.approx([1, 0], abs=1e-3)
