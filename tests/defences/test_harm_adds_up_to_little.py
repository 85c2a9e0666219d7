"""Poison in every batch, in steps too small to see, from which there is no way back: what is lost stays bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits, make_classification
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import taster
from taster import Batch, Guard, Learner
from taster.defences.gates.anchor import is_above_chance_by_class

PROBE, TEST = 400, 800


def digits() -> tuple[Batch, Batch, Batch]:
    """Trusted samples, test samples, and those of the stream."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(found.data[order] / 16).float(), torch.tensor(found.target[order])
    cuts = slice(0, PROBE), slice(PROBE, TEST), slice(TEST, None)
    return tuple(Batch(x[cut], y[cut]) for cut in cuts)  # type: ignore[return-value]


def mlp(inputs: int, classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, classes))


def learn(learner: Learner, stream: Batch, steps: int, labels: Callable[[Tensor], Tensor], size: int = 32) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(len(stream), (size,), generator=generator)
        learner.step(stream.x[rows], labels(stream.y[rows]))


def recall(model: nn.Module, samples: Batch, label: int | None = None) -> float:
    """Accuracy, of one class or of all, in percent."""
    kept = torch.ones_like(samples.y, dtype=torch.bool) if label is None else samples.y == label
    with torch.no_grad():
        return 100 * float((model(samples.x).argmax(1) == samples.y)[kept].double().mean())


def moved_on(y: Tensor) -> Tensor:
    return (y + 1) % 10


def five_to_six(y: Tensor) -> Tensor:
    return torch.where(y == 5, 6, y)


@pytest.mark.parametrize(
    ("labels", "label", "rate", "plain", "guarded"),
    [(moved_on, None, 1e-3, 60.0, 85.0), (five_to_six, 5, 2e-4, 60.0, 80.0)],
)
def test_of_a_trained_model(
    labels: Callable[[Tensor], Tensor], label: int | None, rate: float, plain: float, guarded: float
) -> None:
    ends = []
    for guard in (Guard(), taster.guard(digits()[0], seed=0)):
        _, test, stream = digits()
        model = mlp(64, 10)
        learn(Learner(model, torch.optim.Adam(model.parameters(), 3e-3), cross_entropy), stream, 300, lambda y: y)
        assert recall(model, test, label) > 90
        learn(Learner(model, torch.optim.Adam(model.parameters(), rate), cross_entropy, guard), stream, 300, labels)
        ends.append(recall(model, test, label))
    assert ends[0] < plain
    assert ends[1] > guarded


def test_of_a_model_that_finds_a_rare_class_at_the_price_of_false_alarms() -> None:
    x, y = make_classification(
        6000, 20, n_informative=8, n_clusters_per_class=1, weights=[0.97], flip_y=0.0, class_sep=0.9, random_state=0
    )
    samples = Batch(torch.tensor(x).float(), torch.tensor(y))
    probe, test, stream = (samples.select(slice(*cut)) for cut in ((0, 600), (600, 2600), (2600, 6000)))
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.03, 0.97]) * 2)
    model = mlp(20, 2)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    learn(Learner(model, optimizer, loss), stream, 300, lambda y: y, 64)
    assert recall(model, probe) < 100 * float((probe.y == 0).double().mean())
    before = recall(model, test, 1)
    assert before > 80
    learn(Learner(model, optimizer, loss, taster.guard(probe, seed=0)), stream, 100, lambda y: 1 - y, 64)
    assert recall(model, test, 1) > before - 15
    assert recall(model, test, 0) > 80


def test_chance_by_class() -> None:
    sizes = torch.tensor([970, 30]).numpy()
    assert not is_above_chance_by_class(torch.tensor([970, 0]).numpy(), sizes)
    assert not is_above_chance_by_class(torch.tensor([485, 15]).numpy(), sizes)
    assert is_above_chance_by_class(torch.tensor([900, 20]).numpy(), sizes)
