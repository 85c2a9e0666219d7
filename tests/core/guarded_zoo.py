"""What the tests of `Guarded` share: a model, batches, gates that refuse, and all bits of what a step may change."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tests.core.zoo import batch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import COMMIT, CandidateUpdate, Guard, Guarded, Verdict, reject

__all__ = ["Counts", "RefusesAt", "all_of", "batch", "make_step", "network", "refusing"]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


class RefusesAt:
    """A gate that refuses the updates of some steps, and looks at the model at every step."""

    def __init__(self, *steps: int, verdict: Verdict | None = None) -> None:
        self.steps, self.verdict = steps, reject("no") if verdict is None else verdict

    def __call__(self, update: CandidateUpdate) -> Verdict:
        probe = batch(99)
        update.after.accuracy(probe.x, probe.y)
        return self.verdict if update.step in self.steps else COMMIT


def refusing(*steps: int) -> Guard:
    return Guard(gates=[RefusesAt(*steps)])


class Counts:
    """Something with a state that is no module: how often, and a tensor."""

    def __init__(self) -> None:
        self.calls, self.total = 0, torch.zeros(2)

    def update(self, value: Tensor) -> None:
        self.calls += 1
        self.total += value.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls, self.total = state["calls"], state["total"].clone()


def all_of(guarded: Guarded, also: Sequence[Any] = ()) -> dict[str, Any]:
    """Every bit that a step may change, copied."""
    modules = dict(guarded.state.module.named_modules())
    return {
        "params": {n: p.detach().clone() for n, p in guarded.state.module.named_parameters()},
        "buffers": {n: b.clone() for n, b in guarded.state.module.named_buffers()},
        "modes": {name: module.training for name, module in modules.items()},
        "grads": [p.grad is None for p in guarded.state.module.parameters()],
        "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in guarded.optimizers],
        "scaler": None if guarded.scaler is None else copy.deepcopy(guarded.scaler.state_dict()),
        "also": [copy.deepcopy(entry.state_dict()) for entry in also],
    }


def make_step(guarded: Guarded, seed: int, **options: Any) -> Any:
    """One step of a plain loop."""
    given = batch(seed)
    with guarded.step(given, **options) as step:
        step.loss = cross_entropy(guarded.model(step.batch.x), step.batch.y)
        step.loss.backward()
        guarded.optimizer.step()
        guarded.optimizer.zero_grad()
    return step
