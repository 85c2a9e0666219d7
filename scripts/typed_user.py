"""A user's file as a type checker sees it: no error, and nothing of the main interface is of unknown type."""

from __future__ import annotations

import torch
from torch import nn

import taster


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[str]:
    """Both ways to guard a loop, with what they return used."""
    guard: taster.Guard = taster.guard(taster.Batch(x, y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = taster.Learner(model, optimizer, nn.functional.cross_entropy, guard)
    record = learner.step(x, y)
    verdict = record.verdict
    said: list[str] = [] if verdict.committed else [verdict.stage, verdict.reason]
    steps: int = learner.steps
    counts: int = learner.counters["rejected"]
    bound: taster.DetectionBound = taster.detection_bound(500)
    fall: float = bound.max_accuracy_drop
    return [*said, f"{steps} {counts} {fall}"]


def gate(change: taster.CandidateUpdate) -> taster.Verdict:
    """A gate of one's own."""
    return taster.COMMIT if change.step >= 0 else taster.reject("no")


def own_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> bool:
    """A step of one's own, inside a guard."""
    guarded = taster.Guarded(model, optimizer, taster.Guard(gates=[gate]))
    with guarded.step() as step:
        optimizer.step()
        step.loss = loss
    return step.record is not None and step.record.verdict.committed
