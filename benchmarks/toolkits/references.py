"""The rules in float64 from their definitions, one client and one pair at a time: slow, and what is right."""

from __future__ import annotations

import numpy as np

from toolkits.rules import Matrix


def pair_distances(values: Matrix) -> Matrix:
    """Squared Euclidean distances of rows [n, d] from the differences themselves, [n, n]."""
    wide = values.astype(np.float64)
    found = np.zeros((len(wide), len(wide)))
    for i in range(len(wide)):
        for j in range(i):
            change = wide[i] - wide[j]
            found[i, j] = found[j, i] = change @ change
    return found


def krum_scores(distances: Matrix, neighbors: int) -> Matrix:
    """The sum of squared distances to the nearest others, [n]."""
    return np.array([np.sort(np.delete(row, i))[:neighbors].sum() for i, row in enumerate(distances)])


def median(values: Matrix) -> Matrix:
    """Of each column, [d]."""
    ordered = np.sort(values.astype(np.float64), axis=0)
    n = len(ordered)
    found: Matrix = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return found


def trimmed_mean(values: Matrix, trimmed: int) -> Matrix:
    """Of each column without so many values at either end, [d]."""
    ordered = np.sort(values.astype(np.float64), axis=0)
    found: Matrix = ordered[trimmed : len(ordered) - trimmed].mean(0)
    return found


def geometric_median(values: Matrix, iterations: int = 2000) -> Matrix:
    """By Weiszfeld's algorithm on the updates themselves, from the median of each column."""
    wide = values.astype(np.float64)
    z = median(values)
    for _ in range(iterations):
        lengths = np.linalg.norm(wide - z, axis=1)
        shares = 1 / np.maximum(lengths, 1e-300)
        moved = shares @ wide / shares.sum()
        if np.linalg.norm(moved - z) <= 1e-13 * np.median(lengths):
            break
        z = np.asarray(moved)
    return z


def clipped(values: Matrix, norm: float) -> Matrix:
    """Rows no longer than this, [n, d]."""
    wide = values.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    found: Matrix = wide * np.minimum(1, norm / lengths)
    return found


def mixed(values: Matrix, num_byzantine: int) -> Matrix:
    """Each row replaced by the mean of its n − f nearest, itself included, [n, d]."""
    wide = values.astype(np.float64)
    nearest = np.argsort(pair_distances(values), axis=1, kind="stable")[:, : len(wide) - num_byzantine]
    return np.stack([wide[own].mean(0) for own in nearest])
