"""Batches that are learned at once, poison for them, and learners with a past."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.conftest import tiny_batch, tiny_learner

from taster import Batch, Learner, ScreenedBatch, SnapshotBuffer, View


def easy(n: int, seed: int = 0) -> Batch:
    """Samples a tiny net learns at once: the class is the brightness."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    return Batch((y.float() / 2)[:, None, None, None].expand(n, 1, 6, 6).contiguous(), y)


def noisy(n: int, seed: int = 0) -> Batch:
    """The same, where classes run into each other."""
    clean = easy(n, seed)
    noise = 0.2 * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(seed + 10**6))
    return Batch((clean.x + noise).clamp(0, 1), clean.y)


def poison(batch: Batch, loss_weight: float = 1.0) -> Batch:
    """Labels that undo what was learned."""
    return Batch(batch.x, (batch.y + 1) % 3, loss_weight)


def trained(learner: Learner, steps: int = 40, draw: Callable[..., Batch] = easy) -> Learner:
    for i in range(steps):
        learner.step(draw(32, seed=i))
    return learner


def accuracy(learner: Learner) -> float:
    probe = easy(300, seed=77)
    return learner.view().accuracy(probe.x, probe.y)


def screened(guard: Any, batch: Batch, view: View) -> Any:
    (screen,) = guard.screens
    return screen(ScreenedBatch(batch), view)


def learner_with_a_past(guard: Any = None, steps: int = 12) -> Learner:
    """Its past is pinned as "early"."""
    learner = tiny_learner(guard=None, snapshots=SnapshotBuffer(capacity=3))
    assert learner.snapshots is not None
    learner.snapshots.pin("early", learner.snapshot())
    for i in range(steps):
        learner.step(tiny_batch(16, seed=i))
    if guard is not None:
        learner.guard = guard
    return learner
