"""Small training sets, and attackers who know of them, for tests of attacks on training sets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster import Batch
from taster.attacks import DatasetKnowledge
from taster.core.fitting import Classifier
from taster.data.digits import digits


def no_fit(samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Classifier:
    raise AssertionError("these attacks train models of their own")


def gaussians(n: int, seed: int, *, classes: int = 2, d: int = 3, spread: float = 0.6) -> Batch:
    """Overlapping clouds in [-4, 4]^d, float64."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centers = torch.eye(classes, d, dtype=torch.float64)
    x = centers[y] + spread * torch.randn(n, d, generator=g, dtype=torch.float64)
    return Batch(x.clamp(-4, 4), y)


def knows(own: Batch, classes: int, seed: int = 0, low: float = -4.0, high: float = 4.0) -> DatasetKnowledge:
    return DatasetKnowledge(classes, own, (no_fit,), torch.Generator().manual_seed(seed), low, high)


def digit_roles(seed: int, *sizes: int, of: tuple[int, ...] = tuple(range(10))) -> list[Batch]:
    """Disjoint sets of so many digits [n, 1, 8, 8], of some classes, which are called 0, 1 and so on."""
    images = digits().train
    assert images is not None
    there = torch.isin(images.y, torch.tensor(of)).nonzero().flatten()
    order = there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))]
    y = torch.stack([images.y == label for label in of]).long().argmax(0)
    roles = torch.split(order[: sum(sizes)], sizes)
    return [Batch(images.x[rows].float() / 255, y[rows]) for rows in roles]


def error(victim: object, train: Batch, test: Batch) -> float:
    """Test error of a scikit-learn classifier, in percent."""
    victim.fit(train.x.flatten(1).double().numpy(), train.y.numpy())  # type: ignore[attr-defined]
    right = victim.score(test.x.flatten(1).double().numpy(), test.y.numpy())  # type: ignore[attr-defined]
    return 100 * (1 - float(right))


def central_differences(f: Callable[[Tensor], float], x: Tensor, h: float = 1e-4) -> Tensor:
    """The gradient of a function, entry by entry."""
    found = torch.zeros_like(x)
    for i in range(x.numel()):
        move = torch.zeros(x.numel(), dtype=x.dtype)
        move[i] = h
        move = move.reshape(x.shape)
        found.view(-1)[i] = (f(x + move) - f(x - move)) / (2 * h)
    return found
