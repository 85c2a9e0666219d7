"""A probe drawn from what there is."""

from __future__ import annotations

import pytest
import torch
from tests.defences.conftest import easy
from torch.utils.data import Dataset, TensorDataset

import taster
from taster import Batch
from taster.errors import BatchError, GuardError, LabelError
from taster.probe.drawing import shares


def numbered(n: int = 100) -> Batch:
    """Samples that are their own index, with classes of unequal size."""
    x = torch.arange(n, dtype=torch.float32)[:, None]
    return Batch(x, (x[:, 0] >= 0.8 * n).long())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def indices(batch: Batch) -> list[int]:
    return batch.x[:, 0].long().tolist()


def test_probe_and_rest_are_disjoint_and_all_there_is() -> None:
    probe, rest = taster.probe.draw(numbered(), 30, generator=seeded())
    assert len(probe) == 30
    assert sorted(indices(probe) + indices(rest)) == list(range(100))
    assert torch.equal(probe.y, numbered().y[indices(probe)])


def test_a_draw_is_reproducible_and_depends_on_the_seed() -> None:
    first, again, other = (indices(taster.probe.draw(numbered(), 30, generator=seeded(s))[0]) for s in (0, 0, 1))
    assert first == again != other
    torch.manual_seed(3)
    a = indices(taster.probe.draw(numbered(), 30)[0])
    torch.manual_seed(3)
    assert a == indices(taster.probe.draw(numbered(), 30)[0])


def test_each_class_has_its_share() -> None:
    for seed in range(5):
        probe, _ = taster.probe.draw(numbered(), 30, generator=seeded(seed))
        assert probe.y.bincount().tolist() == [24, 6]
    free = {
        tuple(taster.probe.draw(numbered(), 30, stratified=False, generator=seeded(s))[0].y.bincount().tolist())
        for s in range(5)
    }
    assert len(free) > 1


def test_a_rare_class_has_one_sample_at_least() -> None:
    assert shares(torch.tensor([1000, 1, 1]), 10) == [8, 1, 1]
    assert shares(torch.tensor([50, 30, 20]), 10) == [5, 3, 2]
    assert sum(shares(torch.tensor([7, 7, 7]), 2)) == 2


def test_numbers_have_no_classes_to_stratify_by() -> None:
    data = Batch(torch.rand(50, 2), torch.rand(50))
    probe, rest = taster.probe.draw(data, 20)
    assert (len(probe), len(rest)) == (20, 30)
    with pytest.raises(LabelError, match="stratified=False"):
        taster.probe.draw(data, 20, stratified=True)


def test_nested_batches_are_drawn_whole() -> None:
    data = Batch({"a": torch.arange(40.0)[:, None], "labels": torch.arange(40) % 4})
    probe, rest = taster.probe.draw(data, 8, generator=seeded())
    assert torch.equal(probe.x["labels"], (probe.x["a"][:, 0] % 4).long())
    assert probe.x["labels"].bincount().tolist() == [2, 2, 2, 2]
    assert len(rest) == 32


class Items(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(i)]), i % 3


@pytest.mark.parametrize("data", [Items(), TensorDataset(torch.arange(60.0)[:, None], torch.arange(60) % 3)])
def test_data_sets_leave_a_subset(data: Dataset) -> None:  # type: ignore[type-arg]
    probe, rest = taster.probe.draw(data, 12, generator=seeded())
    assert probe.y.bincount().tolist() == [4, 4, 4]
    assert sorted(indices(probe) + [int(rest[i][0]) for i in range(len(rest))]) == list(range(60))


@pytest.mark.parametrize("samples", [0, 1, 100, 101, True, 2.5])
def test_numbers_that_there_are_not_are_refused(samples: int) -> None:
    with pytest.raises(GuardError, match="samples of 100"):
        taster.probe.draw(numbered(), samples)


def test_anything_but_data_is_refused() -> None:
    with pytest.raises(BatchError, match=r"wanted a taster\.Batch"):
        taster.probe.draw(torch.rand(10, 2), 3)
    broken = easy(20)
    broken.x[3] = float("nan")
    with pytest.raises(BatchError, match="NaN"):
        taster.probe.draw(broken, 19)


def test_size_is_enough_and_little_more() -> None:
    from taster.probe.sizing import guard_bound

    for options in ({"refusals": 0}, {"refusals": 20}, {"refusals": 0, "checks": 10, "tolerance": 0.5}):
        samples = taster.probe.size(5.0, **options)
        assert guard_bound(samples, **options).max_accuracy_drop <= 5.0
        assert guard_bound(round(0.9 * samples), **options).max_accuracy_drop > 5.0
    assert taster.probe.size(5.0) > taster.probe.size(10.0)


def test_size_knows_the_bound_of_the_default_guard() -> None:
    from tests.conftest import tiny_learner

    from taster.probe.sizing import guard_bound

    for samples in (300, 1500):
        guard = taster.guard(easy(samples))
        tiny_learner(guard=guard)
        (gate,) = guard.gates
        assert guard_bound(samples, checks=50, refusals=3) == gate.detection_bound(checks=50, refusals=3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("drop", [1.0, 0.5, 101.0, True, "5"])
def test_drops_that_cannot_be_promised_are_refused(drop: float) -> None:
    with pytest.raises(GuardError, match="above the tolerance"):
        taster.probe.size(drop)


def test_a_drop_that_no_number_of_samples_promises_is_refused() -> None:
    with pytest.raises(GuardError, match="100,000 samples cannot promise"):
        taster.probe.size(1.01)
