"""Poison that knows how a training set is divided: where it falls, what it turns, and that no certificate is broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from taster import Batch
from taster.attacks import DatasetKnowledge, DatasetPoisonSettings, PoisonedDataset, partition_aware
from taster.attacks.dataset.partition_aware import _cheapest
from taster.data.partitions import hash_buckets, hash_partition
from taster.defences.training import (
    CertifiedEnsemble,
    deep_partition_aggregation,
    finite_aggregation,
)
from taster.errors import AttackError, DataError

SIZE, PARTS = 120, 12


class Nearest:
    """To each class the distance of its nearest training sample, as a score."""

    def __init__(self, samples: Batch) -> None:
        self.samples = samples

    def outputs(self, x: Tensor) -> Tensor:
        distances = torch.cdist(x, self.samples.x)
        far = torch.full((len(x), 3), 100.0)
        return -far.scatter_reduce(1, self.samples.y.expand(len(x), -1), distances, "amin")


def fit(samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Nearest:
    return Nearest(samples)


class NearestModels(list[Nearest]):
    """Base models."""

    def scores(self, x: Tensor) -> Tensor:
        return torch.stack([model.outputs(x) for model in self], 1)


def train(x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> NearestModels:
    return NearestModels(Nearest(Batch(x[part], y[part])) for part in members)


def blobs(n: int, seed: int) -> Batch:
    """Three classes in a square, with room between them."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centers = torch.tensor([[0.25, 0.25], [0.75, 0.3], [0.45, 0.75]])
    return Batch((centers[y] + 0.1 * torch.randn(n, 2, generator=draw)).clamp(0, 1), y)


CLEAN, OWN, TEST = blobs(SIZE, 1), blobs(60, 7), blobs(90, 3)


def poisoned(samples: float, seed: int = 0, own: Batch = OWN, classes: int = 3, **settings: Any) -> PoisonedDataset:
    known = DatasetKnowledge(classes, own, (fit,), torch.Generator().manual_seed(seed))
    share = DatasetPoisonSettings(poison_fraction=samples / SIZE)
    return partition_aware(poisoning=share, **{"partitions": PARTS, **settings})(CLEAN, known)


def aggregated(samples: Batch, spread: int = 1) -> CertifiedEnsemble:
    aggregation = deep_partition_aggregation(partitions=PARTS)
    if spread > 1:
        aggregation = finite_aggregation(partitions=PARTS, spread=spread)
    return aggregation(samples.x, samples.y, train, classes=3)


def test_poison_is_inserted_close_to_samples_of_one_class_under_another() -> None:
    found = poisoned(10, epsilon=0.05)
    assert torch.equal(found.samples.x[:SIZE], CLEAN.x)
    assert torch.equal(found.samples.y[:SIZE], CLEAN.y)
    inserted = found.samples.select(slice(SIZE, None))
    near = ((OWN.x[None] - inserted.x[:, None]).abs().amax(2) <= 0.05 + 1e-6).float()
    assert len(torch.unique(inserted.y)) == 1
    sources = [label for label in range(3) if bool((near[:, OWN.y == label].sum(1) > 0).all())]
    assert any(label != int(inserted.y[0]) for label in sources)


@pytest.mark.parametrize("spread", [1, 3])
def test_the_accuracy_that_is_left_is_never_below_what_was_certified(spread: int) -> None:
    budgets = [1, 2, 4, 6, 12, 36]
    certified = aggregated(CLEAN, spread).predict(TEST.x).certified_accuracy(TEST.y, budgets)
    left = [
        aggregated(poisoned(n, spread=spread).samples, spread).predict(TEST.x).certified_accuracy(TEST.y, [0])[0]
        for n in budgets
    ]
    assert all(proved <= found for proved, found in zip(certified, left, strict=True))
    assert left[-1] <= left[0] - 5  # the attack is one


def test_a_target_is_turned_with_few_more_samples_than_its_radius() -> None:
    target = OWN.select(slice(0, 1))
    radius = int(aggregated(CLEAN).predict(target.x).radius[0])
    labels = {
        n: int(aggregated(poisoned(n, target=0, target_class=1, copies=4).samples).predict(target.x).labels[0])
        for n in (radius, 4 * (radius + 1))
    }
    assert labels == {radius: 0, 4 * (radius + 1): 1}


def test_poison_goes_into_the_parts_that_are_turned_most_cheaply() -> None:
    #             copies:  1    2    3
    closed = torch.tensor([[0.0, 0.0, 0.9], [0.0, 2.0, 2.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    own = torch.arange(3)[:, None]
    assert _cheapest(closed, own, 2).tolist() == [1, 1]
    assert _cheapest(closed, own, 6).tolist() == [1, 1, 2, 0, 0, 0]
    assert _cheapest(closed, own, 8).tolist() == [1, 1, 2, 0, 0, 0, 1, 2]  # what is left, in turn
    # Buckets that feed two models each: 0 and 1, 1 and 2, 2 and 0.
    assert _cheapest(closed, torch.tensor([[0, 1], [1, 2], [2, 0]]), 3).tolist() == [1, 1, 0]


def test_poison_falls_where_it_is_to_fall_and_stays_there() -> None:
    x = poisoned(9, target=0, target_class=2, copies=1).samples.x[SIZE:]
    buckets = hash_buckets(x, None, PARTS)
    assert len(torch.unique(buckets)) == 9  # the nine cheapest, one copy each
    both = torch.cat([CLEAN.x, x])
    members = hash_partition(both, torch.zeros(len(both), dtype=torch.int64), PARTS).members
    assert all(SIZE + i in members[bucket].tolist() for i, bucket in enumerate(buckets.tolist()))


def test_parts_without_samples_are_turned_too() -> None:
    parts = SIZE  # about a third of which have none
    assert min(map(len, hash_partition(CLEAN.x, CLEAN.y, parts).members)) == 0
    found = poisoned(20, partitions=parts, target=0, target_class=1, copies=1)
    assert len(torch.unique(hash_buckets(found.samples.x[SIZE:], None, parts))) == 20


def test_the_same_seed_gives_the_same_poison_and_success_is_measured_on_the_target() -> None:
    assert torch.equal(poisoned(5).samples.x, poisoned(5).samples.x)
    assert not torch.equal(poisoned(5).samples.x, poisoned(5, seed=1).samples.x)
    attack = partition_aware(target=4, target_class=2)
    known = DatasetKnowledge(3, OWN, (fit,), torch.Generator())
    assert attack.target is not None
    assert torch.equal(attack.target(known).x, OWN.x[4:5])
    assert attack.target(known).y.tolist() == [2]
    assert partition_aware().target is None


@pytest.mark.parametrize(
    ("samples", "settings", "message"),
    [
        (0.4, {}, "poison_fraction"),
        (5, {"target": 60, "target_class": 1}, "target: got 60, wanted 0 to 59"),
        (5, {"target": 0, "target_class": 0}, "target_class: got 0 for a target of class 0, wanted another of 3"),
        (5, {"target": 0, "target_class": 3}, "target_class: got 3"),
        (5, {"classes": 1, "own": Batch(OWN.x, OWN.y * 0)}, "got 1 class, wanted at least 2"),
        (5, {"target": 0, "target_class": 1, "epsilon": 1e-12}, "raise epsilon"),
    ],
)
def test_what_cannot_be_attacked_is_told(samples: float, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        poisoned(samples, **settings)


def test_more_parts_than_samples_and_half_a_target_are_told() -> None:
    with pytest.raises(DataError, match="wanted at least one for each"):
        poisoned(5, partitions=SIZE + 1)
    with pytest.raises(AttackError, match="wanted both of them or neither"):
        partition_aware(target=1)
    with pytest.raises(AttackError, match="wanted both of them or neither"):
        partition_aware(target_class=1)
