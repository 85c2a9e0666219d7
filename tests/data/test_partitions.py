"""A sample's part is its own affair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taster.defences.training import Partition, hash_partition, rank_partition
from taster.errors import DataError


def samples(n: int = 60, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 1, 3, 3), generator=generator, dtype=torch.uint8)
    return x, torch.randint(0, 3, (n,), generator=generator)


def contents(x: Tensor, y: Tensor, partition: Partition) -> list[list[tuple[bytes, int]]]:
    """What each model is trained on, in its order."""
    return [[(x[i].numpy().tobytes(), int(y[i])) for i in part.tolist()] for part in partition.members]


def changed_models(before: list[list[tuple[bytes, int]]], after: list[list[tuple[bytes, int]]]) -> set[int]:
    return {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}


@pytest.mark.parametrize("spread", [1, 3])
def test_every_sample_feeds_the_models_of_its_bucket(spread: int) -> None:
    x, y = samples()
    found = hash_partition(x, y, 4, spread=spread)
    assert found.bases.shape == (4 * spread, spread)
    assert torch.bincount(torch.cat(list(found.members)), minlength=60).tolist() == [spread] * 60
    assert [len(set(row)) for row in found.bases.tolist()] == [spread] * (4 * spread)
    assert torch.bincount(found.bases.flatten()).tolist() == [spread] * (4 * spread)
    rows = {tuple(sorted(row)) for row in found.bases.tolist()}
    for i in range(60):
        assert tuple(m for m, part in enumerate(found.members) if i in part.tolist()) in rows


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("spread", [1, 3])
def test_the_order_of_the_data_set_changes_nothing(spread: int, with_labels: bool) -> None:
    x, y = samples()
    x[7] = x[8]  # equal samples, with labels of their own
    y[7], y[8] = 0, 1
    before = contents(x, y, hash_partition(x, y, 4, spread=spread, with_labels=with_labels))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    after = contents(x[order], y[order], hash_partition(x[order], y[order], 4, spread=spread, with_labels=with_labels))
    assert before == after


@pytest.mark.parametrize("spread", [1, 3])
def test_an_inserted_or_removed_sample_changes_the_models_of_one_bucket(spread: int) -> None:
    x, y = samples()
    partition = hash_partition(x, y, 4, spread=spread)
    before = contents(x, y, partition)
    rows = [set(row) for row in partition.bases.tolist()]
    for i in range(60):
        others = torch.arange(60) != i
        after = contents(x[others], y[others], hash_partition(x[others], y[others], 4, spread=spread))
        assert changed_models(before, after) in rows


def test_a_changed_sample_moves_alone() -> None:
    x, y = samples()
    before = contents(x, y, hash_partition(x, y, 4))
    moved = 0
    for i in range(60):
        other = x.clone()
        other[i, 0, 0, 0] ^= 1
        after = contents(other, y, hash_partition(other, y, 4))
        changed = changed_models(before, after)
        assert 1 <= len(changed) <= 2
        moved += len(changed) == 2
        for a, b in zip(before, after, strict=True):  # all others stay where they were, in their order
            own = {x[i].numpy().tobytes(), other[i].numpy().tobytes()}
            assert [s for s in a if s[0] not in own] == [s for s in b if s[0] not in own]
    assert 30 < moved < 60  # three in four


def test_a_changed_label_stays_in_its_part_unless_labels_are_hashed() -> None:
    x, y = samples()
    plain, labelled = (contents(x, y, hash_partition(x, y, 8, with_labels=hashed)) for hashed in (False, True))
    moved = 0
    for i in range(60):
        flipped = y.clone()
        flipped[i] = (y[i] + 1) % 3
        assert len(changed_models(plain, contents(x, flipped, hash_partition(x, flipped, 8)))) == 1
        after = contents(x, flipped, hash_partition(x, flipped, 8, with_labels=True))
        moved += len(changed_models(labelled, after)) == 2
    assert moved > 30


def test_parts_by_rank_are_equal_and_know_no_label() -> None:
    x, y = samples(62)
    found = rank_partition(x, y, 4)
    assert sorted(len(part) for part in found.members) == [15, 15, 16, 16]
    flipped = (y + 1) % 3
    assert all(torch.equal(a, b) for a, b in zip(found.members, rank_partition(x, flipped, 4).members, strict=True))
    order = torch.randperm(62, generator=torch.Generator().manual_seed(1))
    assert contents(x, y, found) == contents(x[order], y[order], rank_partition(x[order], y[order], 4))


def test_samples_of_another_type_or_shape_are_others() -> None:
    x, y = samples(20)
    as_bytes = hash_partition(x, y, 4).members
    assert any(not torch.equal(a, b) for a, b in zip(as_bytes, hash_partition(x.flatten(1), y, 4).members, strict=True))


def test_what_cannot_be_divided_is_refused() -> None:
    x, y = samples(5)
    for divide in (hash_partition, rank_partition):
        with pytest.raises(DataError, match="got 5 samples for 6 partitions"):
            divide(x, y, 6)
    x[1] = x[0]
    with pytest.raises(DataError, match="got 1 samples that are equal to another"):
        rank_partition(x, y, 2)
