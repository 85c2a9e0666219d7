"""Which samples a training sees, how often, and in which order."""

from __future__ import annotations

import torch

from taster.core.epochs import Epochs


def drawn(epochs: Epochs, times: int = 1) -> list[list[int]]:
    return [[place for batch in epochs for place in batch.tolist()] for _ in range(times)]


def test_each_sample_once_an_epoch_in_batches_of_nearly_equal_size() -> None:
    epochs = Epochs(torch.ones(23), 10, torch.Generator().manual_seed(0))
    assert epochs.batches == 3
    assert sorted(len(batch) for batch in epochs) == [7, 8, 8]
    first, second = drawn(epochs, 2)
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second


def test_samples_without_weight_never_come() -> None:
    weights = torch.ones(12)
    weights[[0, 5]] = 0
    epochs = Epochs(weights, 4, torch.Generator().manual_seed(0))
    assert epochs.samples == 10
    for order in drawn(epochs, 3):
        assert sorted(order) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_samples_come_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0])
    epochs = Epochs(weights, 2, torch.Generator().manual_seed(0))
    every = [place for order in drawn(epochs, 2000) for place in order]
    assert len(every) == 4000
    assert 0 not in every
    assert abs(every.count(2) / len(every) - 0.75) < 0.03


def test_a_subsample_is_drawn_once() -> None:
    epochs = Epochs(torch.ones(100), 8, torch.Generator().manual_seed(0), 0.3)
    first, second = drawn(epochs, 2)
    assert len(first) == epochs.samples == 30
    assert sorted(first) == sorted(second)
