"""Certificates of time against brute force, and models on windows of time."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from taster.defences.training import (
    SGDSettings,
    StackedModels,
    temporal_aggregation,
    temporal_certificate,
    vectorized_training,
)
from taster.errors import BatchError, DataError, LabelError, SettingError

CLASSES = 3
TRAIN = vectorized_training(lambda: nn.Linear(4, 3), sgd=SGDSettings(epochs=2, batch_size=4, learning_rate=0.5))


def winner(votes: list[int]) -> int:
    return max(range(CLASSES), key=lambda c: (votes.count(c), -c))


def can_change(votes: list[int], reached: list[int]) -> bool:
    before = winner(votes)
    for others in product(range(CLASSES), repeat=len(reached)):
        changed = list(votes)
        for model, vote in zip(reached, others, strict=True):
            changed[model] = vote
        if winner(changed) != before:
            return True
    return False


def models_reached(first: int, last: int, models: int, coverage: int) -> list[int]:
    """The models with a period between these two among theirs; model i has those from i - coverage + 1 to i."""
    return [i for i in range(models) if i - coverage + 1 <= last and i >= first]


@pytest.mark.parametrize("coverage", [1, 2, 3])
def test_both_certificates_are_right_and_tight_for_every_vote(coverage: int) -> None:
    models = 5
    votes = torch.tensor(list(product(range(CLASSES), repeat=models)))
    found = temporal_certificate(votes, CLASSES, coverage)
    starts = range(-coverage, models + 1)
    for row, label, lasts, recent in zip(
        votes.tolist(), found.labels.tolist(), found.duration.tolist(), found.earliness.tolist(), strict=True
    ):
        assert label == winner(row)
        reach = [[models_reached(s, s + length - 1, models, coverage) for s in starts] for length in (lasts, lasts + 1)]
        assert lasts == 0 or not any(can_change(row, some) for some in reach[0])
        assert any(can_change(row, some) for some in reach[1])
        newest = models - 1
        assert not can_change(row, models_reached(newest - recent + 1, newest, models, coverage) if recent else [])
        assert can_change(row, models_reached(newest - recent, newest, models, coverage))


def stream(periods: int = 8, each: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (periods * each,), generator=generator)
    x = nn.functional.one_hot(y, 4).float() + 0.4 * torch.randn(len(y), 4, generator=generator)
    return x, y, torch.arange(periods).repeat_interleave(each) + 100


def _weights(models: object) -> Tensor:
    assert isinstance(models, StackedModels)
    return torch.cat([torch.cat([p.flatten(1) for p in params.values()], 1) for params, _ in models.chunks])


def test_poison_of_a_period_reaches_the_models_that_cover_it() -> None:
    x, y, period = stream()
    aggregation = temporal_aggregation(models=6, coverage=2)
    before = aggregation(x, y, period, TRAIN, newest=107, classes=3)
    for when in range(100, 108):
        poisoned = torch.where((period == when)[:, None], x.flip(0), x)
        after = aggregation(poisoned, y, period, TRAIN, newest=107, classes=3)
        changed = (_weights(before.models) != _weights(after.models)).any(1).nonzero().flatten().tolist()
        assert changed == [i for i in range(6) if 102 + i - 1 <= when <= 102 + i]


def test_the_order_changes_nothing_and_predictions_are_right() -> None:
    x, y, period = stream()
    aggregation = temporal_aggregation(models=7, coverage=2)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    first = aggregation(x, y, period, TRAIN, newest=107, classes=3)
    second = aggregation(x[order], y[order], period[order], TRAIN, newest=107, classes=3)
    assert torch.equal(_weights(first.models), _weights(second.models))
    found, parts = first.predict(x), first.predict(x, samples_at_once=5)
    assert torch.equal(found.duration, parts.duration)
    assert torch.equal(found.earliness, parts.earliness)
    assert float((found.labels == y).double().mean()) > 0.8
    assert 1 <= int(found.duration.max()) <= 5  # n + τ - 1 models of seven, and not all
    assert int(found.earliness.max()) <= 3


def test_what_makes_no_sense_is_refused() -> None:
    x, y, period = stream()
    aggregation = temporal_aggregation(models=7, coverage=2)
    with pytest.raises(DataError, match="got samples of the periods 100 to 107, wanted a beginning at 99"):
        aggregation(x, y, period, TRAIN, newest=106, classes=3)
    with pytest.raises(DataError, match="an end at 106"):
        temporal_aggregation(models=2)(x, y, period, TRAIN, newest=106, classes=3)
    with pytest.raises(BatchError, match=r"period: got \[96\] of torch.float32"):
        aggregation(x, y, period.float(), TRAIN, newest=107, classes=3)
    with pytest.raises(SettingError, match="classes: got 1"):
        aggregation(x, y, period, TRAIN, newest=107, classes=1)
    with pytest.raises(SettingError, match="coverage: got 0"):
        temporal_aggregation(coverage=0)
    with pytest.raises(SettingError, match="coverage: got 0"):
        temporal_certificate(torch.zeros(1, 3, dtype=torch.int64), 3, 0)
    with pytest.raises(LabelError, match="got votes from 0 to 3"):
        temporal_certificate(torch.tensor([[0, 3]]), 3, 1)
    ensemble = aggregation(x, y, period, TRAIN, newest=107, classes=3)
    with pytest.raises(BatchError, match=r"got samples \[3\], wanted \[4\]"):
        ensemble.predict(x[:, :3])
