"""Samples of a generative model: they lie where their class does, have the labels that they should, and repeat."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taster import Batch
from taster.attacks import DatasetKnowledge, DatasetPoisonSettings, PoisonedDataset, generated_samples
from taster.attacks.dataset_attack import DatasetBudget
from taster.core.fitting import Classifier
from taster.errors import AttackError

SIZE, CENTERS = 90, torch.tensor([[0.2, 0.2, 0.5, 0.5], [0.8, 0.3, 0.5, 0.2], [0.4, 0.8, 0.1, 0.9]])


def unused(samples: Batch, /, **settings: Any) -> Classifier:
    raise AssertionError("no model is trained")


def blobs(n: int = SIZE, seed: int = 0) -> Batch:
    """Three classes, images of four pixels, half of them of class 0."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.tensor([0, 1, 0, 2]).repeat(n)[:n]
    return Batch((CENTERS[y] + 0.05 * torch.randn(n, 4, generator=draw)).clamp(0, 1).reshape(n, 1, 2, 2), y)


CLEAN = blobs()


def poisoned(share: float = 0.5, seed: int = 0, clean: Batch = CLEAN, classes: int = 3, **how: Any) -> PoisonedDataset:
    own = Batch(clean.x[:1], clean.y[:1])
    known = DatasetKnowledge(classes, own, (unused,), torch.Generator().manual_seed(seed))
    return generated_samples(poisoning=DatasetPoisonSettings(poison_fraction=share), **how)(clean, known)


def nearest(samples: Batch) -> torch.Tensor:
    return torch.cdist(samples.x.flatten(1), CENTERS).argmin(1)


def test_new_samples_lie_in_their_class_and_are_as_frequent() -> None:
    found = poisoned(1.0, labels="right")
    new = found.samples.select(slice(SIZE, None))
    assert len(new) == SIZE
    assert torch.equal(found.samples.x[:SIZE], CLEAN.x)
    assert torch.equal(nearest(new), new.y)
    assert torch.equal(torch.bincount(new.y), torch.bincount(CLEAN.y))
    assert torch.cdist(new.x.flatten(1), CLEAN.x.flatten(1)).min() > 0  # none is a copy
    for label in range(3):
        drawn, known = new.x[new.y == label].flatten(1), CLEAN.x[CLEAN.y == label].flatten(1)
        assert torch.allclose(drawn.mean(0), known.mean(0), atol=0.05)
        assert torch.allclose(drawn.std(0), known.std(0), atol=0.03)


@pytest.mark.parametrize("labels", ["random", "next"])
def test_labels_are_wrong_in_the_way_that_is_asked_for(labels: str) -> None:
    new = poisoned(labels=labels).samples.select(slice(SIZE, None))
    of = nearest(new)
    assert not bool((new.y == of).any())
    shifts = set(((new.y - of) % 3).tolist())
    assert shifts == ({1} if labels == "next" else {1, 2})


def test_values_stay_in_the_range_and_the_budget_is_kept() -> None:
    found = poisoned(0.3)
    assert int(found.poisoned.sum()) == 27
    assert float(found.samples.x.min()) >= 0
    assert float(found.samples.x.max()) <= 1
    assert generated_samples().budget == DatasetBudget(0.2, insert=True, content="any", labels=True)


def test_the_same_seed_gives_the_same_samples() -> None:
    assert torch.equal(poisoned().samples.x, poisoned().samples.x)
    assert not torch.equal(poisoned().samples.x, poisoned(seed=1).samples.x)


def test_few_samples_make_small_models() -> None:
    small = blobs(8)
    new = poisoned(1.0, clean=small, labels="right", dimensions=100, components=100).samples.select(slice(8, None))
    assert torch.equal(nearest(new), new.y)


def test_what_cannot_be_modelled_is_told() -> None:
    one = Batch(CLEAN.x[:4], torch.tensor([0, 0, 0, 1]))
    with pytest.raises(AttackError, match="got one sample of class 1, wanted at least 2"):
        poisoned(1.0, clean=one)
    with pytest.raises(AttackError, match="got 1 class"):
        poisoned(clean=Batch(CLEAN.x, CLEAN.y * 0), classes=1)
    with pytest.raises(AttackError, match="no sample of 90"):
        poisoned(0.001)
    with pytest.raises(AttackError, match="finite"):
        poisoned(clean=Batch(CLEAN.x / 0, CLEAN.y))
