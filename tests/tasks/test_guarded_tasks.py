"""Every task at a gate: a trained model goes on learning, and what harms it is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import taster
from taster import Batch, Learner
from taster.defences.gates.probe_gate import probe_gate
from taster.errors import GuardError


class Transposed(nn.Module):
    """A class for each place: [n, length, classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Embedding(5, 5)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.body(ids)
        return out


def tokens_loss(output: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(output.transpose(1, 2), y, ignore_index=-100)


Case = tuple[Callable[[], nn.Module], Any, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str | None]

CASES: dict[str, Case] = {
    "classification": (
        lambda: nn.Linear(4, 3), functional.cross_entropy, lambda x: x[:, :3].argmax(1), lambda y: (y + 1) % 3, None,
    ),
    "binary": (
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), functional.binary_cross_entropy_with_logits,
        lambda x: (x[:, 0] > 0).float(), lambda y: 1 - y, None,
    ),
    "binary probabilities": (
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), nn.BCELoss(),
        lambda x: (x[:, :1] > 0).float(), lambda y: 1 - y, "binary",
    ),
    "multilabel": (
        lambda: nn.Linear(4, 3), nn.BCEWithLogitsLoss(), lambda x: (x[:, :3] > 0).float(), lambda y: 1 - y, None,
    ),
    "segmentation": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 1)), functional.cross_entropy,
        lambda x: (x > 0).long(), lambda y: 1 - y, None,
    ),
    "tokens": (Transposed, tokens_loss, lambda x: (x + 1) % 5, lambda y: (y + 1) % 5, None),
    "regression": (lambda: nn.Linear(4, 1), functional.mse_loss, lambda x: x[:, :1] - x[:, 1:2], lambda y: -y, None),
    "ranking": (
        lambda: nn.Linear(4, 4), nn.CrossEntropyLoss(),
        lambda x: functional.one_hot(x.argmax(1), 4).float(), lambda y: y.roll(1, 1), "ranking",
    ),
}  # fmt: skip


def samples(name: str, n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (n, 6), generator=g) if name == "tokens" else torch.randn(n, 4, generator=g)


@pytest.mark.parametrize("source", ["batch", "loader"])
@pytest.mark.parametrize("name", CASES)
def test_honest_steps_are_learned_and_poisoned_ones_undone(name: str, source: str) -> None:
    torch.manual_seed(0)
    make, loss, label, poison, task = CASES[name]
    model = make()
    plain = Learner(model, torch.optim.SGD(model.parameters(), 1.0 if name != "regression" else 0.1), loss)
    for seed in range(150):
        x = samples(name, 64, seed)
        plain.step(x, label(x))
    x = samples(name, 400, 999)
    y = label(x)
    probe = Batch(x, y) if source == "batch" else DataLoader(TensorDataset(x, y), batch_size=150)
    guard = probe_gate(probe, task=task)
    rate = 0.05
    learner = Learner(model, torch.optim.SGD(model.parameters(), rate), loss, guard)
    (gate,) = guard.gates
    task_found: Any = gate._measure.source._task  # type: ignore[attr-defined]
    assert task_found.name == name.split()[0]
    honest = [learner.step(h := samples(name, 64, seed), label(h)) for seed in range(1000, 1015)]
    assert sum(record.verdict.committed for record in honest) >= 14
    learner.optimizer.param_groups[0]["lr"] = 20.0 if name != "regression" else 0.3
    before = [p.clone() for p in model.parameters()]
    for seed in range(2000, 2005):
        h = samples(name, 64, seed)
        assert not learner.step(h, poison(label(h))).verdict.committed
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_losses_that_compare_samples_take_the_probe_whole() -> None:
    """In-batch contrastive learning: one sample by itself has no loss."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)

    def contrastive(output: Tensor, y: Tensor) -> Tensor:
        similar = output @ output.T
        mask = torch.eye(len(output), dtype=torch.bool)
        return functional.cross_entropy(similar.masked_fill(mask, -1e9), y.roll(1) * 0 + (torch.arange(len(y)) ^ 1))

    x, y = torch.randn(32, 4), torch.arange(32) % 3
    learner = Learner(
        model, torch.optim.SGD(model.parameters(), 0.01), contrastive, probe_gate(Batch(x, y), tolerance=50)
    )
    assert learner.step(x, y).verdict.committed


def test_batch_norm_without_statistics_is_asked_whole() -> None:
    torch.manual_seed(0)
    sizes: list[int] = []

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if taster.in_view():
                sizes.append(len(x))
            out: Tensor = self.head(self.norm(x))
            return out

    model = Norm()
    probe = Batch(torch.randn(300, 4), torch.arange(300) % 3)
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.01), functional.cross_entropy, probe_gate(probe))
    learner.step(probe.select(slice(0, 32)))
    assert set(sizes) == {300}


def test_a_probe_of_many_chunks_is_measured_as_one() -> None:
    def parts() -> Iterator[Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        x = torch.randn(700, 4)
        guard = probe_gate(Batch(x, x[:, :3].argmax(1)))
        learner = Learner(model, torch.optim.SGD(model.parameters(), 0.01), functional.cross_entropy, guard)
        (gate,) = guard.gates
        measured = gate._measure(learner.view())  # type: ignore[attr-defined]
        yield measured["correct"]
        yield model(x).argmax(1) == x[:, :3].argmax(1)
        yield measured["loss"]
        yield functional.cross_entropy(model(x), x[:, :3].argmax(1), reduction="none").detach()

    correct, truth, losses, own = parts()
    assert torch.equal(correct, truth)
    assert torch.allclose(losses, own, atol=1e-6)


def test_the_promise_on_accuracy_is_made_for_tasks_with_classes() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 4)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    for loss, y, promised in (
        (functional.binary_cross_entropy_with_logits, (x[:, 0] > 0).float(), True),
        (functional.mse_loss, x[:, 0], False),
    ):
        guard = probe_gate(Batch(x, y))
        Learner(model, torch.optim.SGD(model.parameters(), 0.01), loss, guard)
        gate: Any = guard.gates[0]
        if promised:
            assert gate.detection_bound().max_accuracy_drop > 0
        else:
            with pytest.raises(GuardError, match="no class each"):
                gate.detection_bound()
