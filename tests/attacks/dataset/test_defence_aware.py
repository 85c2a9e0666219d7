"""An attacker who knows the defence: what he repeats, that he passes it, his budget, and the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from taster import Batch
from taster.attacks import DatasetKnowledge, DatasetPoisonSettings, PoisonedDataset, defence_aware
from taster.core.fitting import Classifier
from taster.defences import TrainingRun
from taster.defences.dataset.nearest_neighbours import nearest_neighbour_sanitation
from taster.errors import AttackError
from taster.offline import EstimatorTraining

FIT = EstimatorTraining(lambda: LogisticRegression(max_iter=200), 3)


def blobs(n: int, seed: int) -> Batch:
    """Three overlapping classes in a square."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centers = torch.tensor([[0.25, 0.25], [0.75, 0.3], [0.45, 0.75]])
    return Batch((centers[y] + 0.12 * torch.randn(n, 2, generator=draw)).clamp(0, 1), y)


class Defended:
    """Leaves out what a predicate says; keeps count of its trainings."""

    def __init__(self, left_out: Any = None) -> None:
        self.left_out, self.calls, self.trusted = left_out, 0, 0

    def __call__(self, samples: Batch, /, *, trusted: Batch, seed: int = 0) -> tuple[Classifier, Tensor | None]:
        self.calls += 1
        self.trusted = len(trusted)
        weights = torch.ones(len(samples))
        if self.left_out is not None:
            weights[self.left_out(samples)] = 0
        return FIT(samples, weights=weights, seed=seed), weights


def poisoned(
    defended: Any, seed: int = 0, own: Batch | None = None, classes: int = 3, **settings: Any
) -> PoisonedDataset:
    known = DatasetKnowledge(classes, own or blobs(200, 7), (FIT,), torch.Generator().manual_seed(seed))
    share = DatasetPoisonSettings(poison_fraction=settings.pop("share", 0.2))
    return defence_aware(defended, poisoning=share, **settings)(blobs(100, 1), known)


def test_poison_is_inserted_close_to_own_samples_under_wrong_labels() -> None:
    own = blobs(200, 7)
    found = poisoned(Defended(), own=own, epsilon=0.05)
    assert int(found.poisoned.sum()) == 20
    assert torch.equal(found.samples.x[:100], blobs(100, 1).x)
    for x, y in zip(found.samples.x[100:], found.samples.y[100:], strict=True):
        near = (own.x - x).abs().amax(1) <= 0.05 + 1e-6
        assert bool(near.any())
        assert not bool((own.y[near] == y).all())


def test_what_the_defence_leaves_out_is_replaced_by_what_it_keeps() -> None:
    def of_class_zero(samples: Batch) -> Tensor:
        late = torch.arange(len(samples)) >= 100
        return late & (samples.y == 0)

    known = poisoned(Defended(of_class_zero), distinct=[1.0])
    unknown = poisoned(Defended(of_class_zero), distinct=[1.0], knows="training")
    passed = [int((found.samples.y[100:] != 0).sum()) for found in (known, unknown)]
    assert passed[0] == 20 >= passed[1]


def test_a_real_defence_is_passed_by_repetition() -> None:
    """Scattered wrong labels are found by their neighbours; what was tried behind that defence is not."""

    def behind(samples: Batch, /, *, trusted: Batch, seed: int = 0) -> tuple[Classifier, Tensor | None]:
        defence = nearest_neighbour_sanitation(neighbours=5, space="input")
        weights = defence.weigh(TrainingRun(samples, trusted, FIT, 3, seed))  # type: ignore[union-attr]
        return FIT(samples, weights=weights), weights

    def kept(found: PoisonedDataset) -> float:
        weights = behind(found.samples, trusted=blobs(10, 3))[1]
        assert weights is not None
        return float((weights[found.poisoned] > 0).float().mean())

    scattered = poisoned(Defended(), distinct=[1.0], rounds=0, knows="training", epsilon=0.0, share=0.1)
    assert kept(poisoned(behind, distinct=[0.1], share=0.2)) > 0.9
    assert kept(scattered) < 0.9


def test_trainings_are_counted_and_trusted_samples_are_half_of_his_own() -> None:
    defended = Defended()
    poisoned(defended, distinct=[1.0, 0.5], rounds=4)
    assert defended.calls == 6  # three plans and two shares; nothing is left out, so no round follows
    assert defended.trusted == 100
    unknown = Defended()
    poisoned(unknown, knows="training")
    assert unknown.calls == 0


def test_the_same_seed_gives_the_same_poison() -> None:
    first, again, other = (poisoned(Defended(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.samples.x, again.samples.x)
    assert torch.equal(first.samples.y, again.samples.y)
    assert not torch.equal(first.samples.x, other.samples.x)


def test_what_it_cannot_work_with() -> None:
    with pytest.raises(AttackError, match="got 3 samples of the attacker's own, wanted at least 4"):
        poisoned(Defended(), own=blobs(3, 7))
    with pytest.raises(AttackError, match="got 1 class, wanted at least 2"):
        poisoned(Defended(), own=Batch(blobs(20, 7).x, torch.zeros(20, dtype=torch.long)), classes=1)
    with pytest.raises(AttackError, match="no sample of 100"):
        poisoned(Defended(), share=0.001)
