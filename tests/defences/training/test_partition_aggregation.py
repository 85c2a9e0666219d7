"""The ensembles as a whole: their order, their certificates against poisoned data, what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn

from taster.defences.training import (
    PartitionAggregation,
    SGDSettings,
    StackedModels,
    TrainBaseModels,
    deep_partition_aggregation,
    finite_aggregation,
    vectorized_training,
)
from taster.errors import BatchError, DataError, LabelError, ModelError, SettingError


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


TRAIN = vectorized_training(linear, sgd=SGDSettings(epochs=3, batch_size=4, learning_rate=0.5))


def samples(n: int = 90, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three overlapping clouds."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    return nn.functional.one_hot(y, 4).float() + 0.6 * torch.randn(n, 4, generator=generator), y


class TableModels:
    """Base models that vote as their own samples do at the same place, or for class 0: nothing to train."""

    def __init__(self, x: Tensor, y: Tensor, members: Sequence[Tensor], classes: int) -> None:
        self._parts = [(x[part], y[part]) for part in members]
        self._classes = classes

    def __len__(self) -> int:
        return len(self._parts)

    def scores(self, x: Tensor) -> Tensor:
        return torch.stack([torch.stack([self._one(sample, *part) for part in self._parts]) for sample in x])

    def _one(self, sample: Tensor, x: Tensor, y: Tensor) -> Tensor:
        near = y[(x == sample).all(1)]
        return torch.bincount(near, minlength=self._classes).float() / (1 + len(near))


def table(x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> TableModels:
    return TableModels(x, y, members, classes)


AGGREGATIONS = {
    "deep": deep_partition_aggregation(partitions=5),
    "deep, run-off": deep_partition_aggregation(partitions=5, vote="run_off"),
    "deep, labels hashed": deep_partition_aggregation(partitions=5, partition_by="hash_with_label"),
    "finite": finite_aggregation(partitions=3, spread=2),
    "finite, run-off": finite_aggregation(partitions=3, spread=2, vote="run_off"),
}


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_no_poison_within_the_radius_changes_a_prediction(name: str) -> None:
    """All data sets that differ by one or two samples of a small universe, trained anew."""
    aggregation = AGGREGATIONS[name]
    universe = [(torch.tensor([float(a), float(b)]), c) for a, b, c in product((0, 1), (0, 1, 2), range(3))]
    generator = torch.Generator().manual_seed(4)
    # Label c in nearly all samples at places 0 0 and 0 1, in numbers that leave something to certify.
    clean = [(torch.tensor([0.0, 0.0]), 1)] * 2 + [universe[i] for i in torch.randperm(18, generator=generator)[:14]]
    x_test = torch.stack([sample for sample, _ in universe[::3]])

    def fit(data: list[tuple[Tensor, int]]) -> tuple[list[int], list[int]]:
        x, y = torch.stack([sample for sample, _ in data]), torch.tensor([label for _, label in data])
        found = aggregation(x, y, table, classes=3).predict(x_test)
        return found.labels.tolist(), found.radius.tolist()

    labels, radius = fit(clean)
    assert max(radius) >= 1
    for i in range(len(clean)):  # one removed
        _unchanged(labels, radius, fit(clean[:i] + clean[i + 1 :])[0], 1)
    for sample in universe:  # one inserted
        _unchanged(labels, radius, fit([*clean, sample])[0], 1)
    changes_by_a_label = 2 if aggregation.partition_by == "hash_with_label" else 1
    for i, label in product(range(len(clean)), range(3)):  # one with another label
        _unchanged(labels, radius, fit([*clean[:i], (clean[i][0], label), *clean[i + 1 :]])[0], changes_by_a_label)
    if max(radius) >= 2:
        for pair in combinations(universe[::2], 2):
            _unchanged(labels, radius, fit([*clean, *pair])[0], 2)


def _unchanged(labels: list[int], radius: list[int], after: list[int], size: int) -> None:
    for before, withstands, now in zip(labels, radius, after, strict=True):
        assert before == now or withstands < size


def test_with_ranks_no_flipped_labels_within_the_radius_change_a_prediction() -> None:
    aggregation = deep_partition_aggregation(partitions=6, partition_by="rank")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 2, generator=generator)
    y = torch.tensor([0, 1] * 6)
    nearest = _NearestTraining()
    found = aggregation(x, y, nearest, classes=2).predict(x)
    assert int(found.radius.max()) >= 1
    for flips in (1, 2):
        for some in combinations(range(12), flips):
            flipped = y.clone()
            flipped[list(some)] = 1 - y[list(some)]
            after = aggregation(x, flipped, nearest, classes=2).predict(x).labels
            assert bool(((after == found.labels) | (found.radius < flips)).all())


class _NearestTraining:
    """Base models that take the label of the nearest of their own samples."""

    def __call__(self, x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> _Nearest:
        return _Nearest([(x[part], nn.functional.one_hot(y[part], classes).float()) for part in members])


class _Nearest:
    def __init__(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def scores(self, x: Tensor) -> Tensor:
        return torch.stack([labels[torch.cdist(x, own).argmin(1)] for own, labels in self._parts], 1)


@pytest.mark.parametrize(
    "aggregation",
    [deep_partition_aggregation(partitions=7), finite_aggregation(partitions=4, spread=3)],
    ids=["deep", "finite"],
)
def test_the_order_of_the_data_set_changes_nothing_bit_for_bit(aggregation: PartitionAggregation) -> None:
    x, y = samples()
    first = aggregation(x, y, TRAIN, classes=3)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    second = aggregation(x[order], y[order], TRAIN, classes=3)
    assert torch.equal(first.models.scores(x), second.models.scores(x))
    assert torch.equal(first.predict(x).radius, second.predict(x).radius)


@pytest.mark.parametrize(("spread", "changes"), [(1, 1), (3, 3)])
def test_one_inserted_sample_changes_the_trained_models_of_one_bucket(spread: int, changes: int) -> None:
    x, y = samples()
    aggregation = finite_aggregation(partitions=5, spread=spread)
    before = _weights(aggregation(x, y, TRAIN, classes=3).models)
    inserted = torch.full((1, 4), 0.25)
    after = _weights(aggregation(torch.cat([x, inserted]), torch.cat([y, torch.tensor([2])]), TRAIN, classes=3).models)
    changed = (before != after).any(1)
    assert int(changed.sum()) == changes
    buckets = [set(row) for row in aggregation.divide(x, y).bases.tolist()]
    assert set(changed.nonzero().flatten().tolist()) in buckets


def _weights(models: object) -> Tensor:
    assert isinstance(models, StackedModels)
    return torch.cat([torch.cat([p.flatten(1) for p in params.values()], 1) for params, _ in models.chunks])


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_predictions_do_not_depend_on_how_many_are_made_at_once(name: str) -> None:
    x, y = samples()
    ensemble = AGGREGATIONS[name](x, y, TRAIN, classes=3)
    whole, parts = ensemble.predict(x), ensemble.predict(x, samples_at_once=7)
    assert torch.equal(whole.labels, parts.labels)
    assert torch.equal(whole.radius, parts.radius)
    assert float((whole.labels == y).double().mean()) > 0.7


def test_an_ensemble_can_vote_in_either_way() -> None:
    x, y = samples()
    plain = deep_partition_aggregation(partitions=5)(x, y, TRAIN, classes=3)
    again = deep_partition_aggregation(partitions=5, vote="run_off")(x, y, TRAIN, classes=3)
    assert torch.equal(plain.predict(x, vote="run_off").radius, again.predict(x).radius)


def _other(x: Tensor, value: float) -> Tensor:
    changed = x.clone()
    changed[3, 1] = value
    return changed


X, Y = samples()

REFUSED = {
    "NaN": (_other(X, float("nan")), Y, 3, BatchError, r"NaN or infinity in sample 3 \(1 such samples\)"),
    "infinity": (_other(X, float("inf")), Y, 3, BatchError, "NaN or infinity in sample 3"),
    "label": (
        X,
        Y.clone().index_fill(0, torch.tensor([5]), 3),
        3,
        LabelError,
        "got label 3 at sample 5.*wanted 0 to 2",
    ),
    "negative label": (X, Y - 1, 3, LabelError, "got label -1"),
    "one class": (X, torch.ones_like(Y), 3, DataError, "90 samples that are all of class 1"),
    "too few": (X[:9], Y[:9], 3, DataError, "got 9 samples for 10 partitions"),
    "none": (X[:0], Y[:0], 3, DataError, "got no samples"),
    "classes": (X, Y, 1, SettingError, "classes: got 1, wanted at least 2"),
    "label shape": (X, Y[:-1], 3, BatchError, r"y: got \[89\] of torch.int64, wanted int64 \[90\]"),
    "label type": (X, Y.float(), 3, BatchError, "torch.float32"),
    "sample type": (X.long(), Y, 3, BatchError, "floating point or uint8"),
    "no tensor": ([1, 2], Y, 3, BatchError, "got a list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_trained_on_is_refused_before_anything_is_done(name: str) -> None:
    x, y, classes, error, message = REFUSED[name]
    calls: list[int] = []

    def train(*args: object, **kwargs: object) -> TableModels:
        calls.append(1)
        raise AssertionError("trained")

    with pytest.raises(error, match=message):
        deep_partition_aggregation(partitions=10)(x, y, train, classes=classes)
    assert calls == []


def test_other_faults_are_told() -> None:
    x, y = samples()
    ensemble = deep_partition_aggregation(partitions=5)(x, y, TRAIN, classes=3)
    with pytest.raises(BatchError, match=r"got samples \[3\], wanted \[4\] as in training"):
        ensemble.predict(x[:, :3])
    with pytest.raises(BatchError, match="NaN or infinity in sample 3"):
        ensemble.predict(_other(x, float("nan")))
    with pytest.raises(SettingError, match="vote: got 'approval'"):
        ensemble.predict(x, vote="approval")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="partitions: got 0"):
        deep_partition_aggregation(partitions=0)
    with pytest.raises(SettingError, match="spread: got -1"):
        finite_aggregation(spread=-1)

    def half(x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> TableModels:
        return TableModels(x, y, members[:2], classes)

    wrong: TrainBaseModels = half
    with pytest.raises(ModelError, match="got 2 models for 5 parts"):
        deep_partition_aggregation(partitions=5)(x, y, wrong, classes=3)
