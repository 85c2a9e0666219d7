"""What the samples that are held out show is held against the states to go back to, as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from taster import Batch, Guard, Learner
from taster.defences import probe_gate

SAMPLES, BATCH, FLIPS = 3000, 900, 20


class Table(nn.Module):
    """A logit for each sample, so that a step changes what its batch holds and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.where(torch.arange(SAMPLES) % 2 == 1, 2.0, -2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x.long()]


def poisoned_steps(first: int, steps: int) -> tuple[list[int], list[str], int, float]:
    """The steps that were undone with each step, the reasons, refusals by samples held out, and flips at the end.

    From step `first` on each batch flips some more samples that are held out."""
    x = torch.arange(SAMPLES).float()
    y = (torch.arange(SAMPLES) % 2).float()
    gate = probe_gate(Batch(x, y), max_rewind=8, seed=0)
    model = Table()
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0 * BATCH)
    learner = Learner(model, optimizer, binary_cross_entropy_with_logits, Guard(gates=gate.gates))
    learner.step(x[:BATCH], y[:BATCH])
    rows = gate.gates[0]._order.held_out  # type: ignore[attr-defined]
    assert len(rows) > BATCH
    undone, reasons = [], []
    for step in range(steps):
        chosen = rows[torch.arange(BATCH)]
        labels = y[chosen].clone()
        if step >= first:
            flipped = slice(FLIPS * (step - first + 1))
            labels[flipped] = 1 - labels[flipped]
        record = learner.step(x[chosen], labels)
        if not record.verdict.committed:
            undone.append(record.verdict.steps)
            reasons.append(str(record.verdict.evidence))
            break
    wrong = int(((model.logits > 0).float() != y).sum())
    return undone, reasons, gate.gates[0].held_out_refusals, wrong  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", [4, 6])
def test_a_drift_that_only_they_show_is_undone_as_far_as_it_goes(first: int) -> None:
    undone, reasons, refusals, wrong = poisoned_steps(first, 14)
    assert len(undone) == 1
    assert undone[0] >= 3
    assert "held_out" in reasons[0]
    assert refusals == 1
    assert wrong <= FLIPS
