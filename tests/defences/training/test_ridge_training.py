"""Base models by ridge regression: what scikit-learn learns, each of its own samples alone, and certificates hold."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn.functional import one_hot

from taster.data.partitions import hash_partition
from taster.defences.training import deep_partition_aggregation, ridge_training
from taster.errors import SettingError


def samples(n: int = 80, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three classes in twelve dimensions."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=draw)
    centers = torch.randn(3, 12, generator=torch.Generator().manual_seed(9))
    return (centers[y] + torch.randn(n, 12, generator=draw)).view(n, 1, 3, 4), y


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_each_model_is_the_ridge_regression_of_its_part(penalty: float) -> None:
    x, y = samples()
    members = hash_partition(x, y, 7).members
    found = ridge_training(penalty=penalty)(x, y, members, classes=3, seed=0)
    others, _ = samples(9, seed=1)
    scores = found.scores(others)
    assert scores.shape == (9, 7, 3)
    assert len(found) == 7
    for model, part in enumerate(members):
        known = Ridge(alpha=penalty).fit(x[part].flatten(1).double(), one_hot(y[part], 3).double())
        expected = torch.from_numpy(known.predict(others.flatten(1).double())).float()
        torch.testing.assert_close(scores[:, model], expected, atol=1e-4, rtol=1e-4)


def test_a_model_depends_on_its_own_part_alone_bit_for_bit() -> None:
    x, y = samples()
    members = list(hash_partition(x, y, 7).members)
    before = ridge_training()(x, y, members, classes=3, seed=0)
    members[2] = torch.cat([members[2], members[3], members[4]])
    after = ridge_training()(x, y, members, classes=3, seed=5)
    same = (before.weight == after.weight).flatten(1).all(1) & (before.level == after.level).all(1)
    assert same.tolist() == [True, True, False, True, True, True, True]


def test_parts_without_samples_and_bytes() -> None:
    x, y = samples()
    none = torch.tensor([], dtype=torch.int64)
    models = ridge_training()(x, y, [torch.arange(5), none], classes=3, seed=0)
    assert not bool(models.scores(x)[:, 1].any())
    pixels = torch.randint(256, (20, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    by_bytes = ridge_training()(pixels, y[:20], [torch.arange(20)], classes=3, seed=0)
    read = ridge_training()(pixels.float() / 255, y[:20], [torch.arange(20)], classes=3, seed=0)
    assert torch.equal(by_bytes.scores(pixels), read.scores(pixels.float() / 255))


def test_no_flipped_labels_within_the_radius_change_a_prediction() -> None:
    x, y = samples()
    aggregation = deep_partition_aggregation(partitions=9)
    clean = aggregation(x, y, ridge_training(), classes=3).predict(x)
    assert int(clean.radius.max()) >= 3
    draw = torch.Generator().manual_seed(0)
    for size in (1, 2, 3):
        for _ in range(5):
            flipped = y.clone()
            places = torch.randperm(len(y), generator=draw)[:size]
            flipped[places] = (flipped[places] + 1) % 3
            after = aggregation(x, flipped, ridge_training(), classes=3).predict(x).labels
            assert bool(((after == clean.labels) | (clean.radius < size)).all())


def test_a_penalty_is_positive() -> None:
    with pytest.raises(SettingError, match="penalty"):
        ridge_training(penalty=0)
