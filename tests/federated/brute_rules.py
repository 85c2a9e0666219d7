"""Aggregation rules written out from their definitions, in exact sums of Python floats."""

from __future__ import annotations

import math

import torch

from taster.federated import AGGREGATORS, geometric_median
from taster.federated.aggregators.fltrust import TrustWeightedMean

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


def every_rule() -> list[tuple[str, object]]:
    found = [(name, AGGREGATORS[name](**options)) for name, (options, _) in RULES.items()]
    return [*found, ("geometric_median", geometric_median()), ("fltrust", TrustWeightedMean(torch.linspace(-1, 2, 13)))]
