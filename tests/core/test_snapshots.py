"""The ring, the pinned snapshots, and their copies on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner

from taster import Snapshot, SnapshotBuffer
from taster.errors import SnapshotError


def snapshot(step: int) -> Snapshot:
    return Snapshot(
        step, {"w": torch.full((2,), float(step))}, {"b": torch.tensor(step)}, {"state": {}, "param_groups": []}
    )


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_ring_keeps_the_newest_and_copies_them(on_disk: bool, tmp_path: Path) -> None:
    history = SnapshotBuffer(capacity=2, directory=tmp_path if on_disk else None)
    live = snapshot(0)
    history.append(live)
    live.params["w"].fill_(9)
    assert torch.equal(history.at(0).params["w"], torch.zeros(2))
    for step in (1, 2):
        history.append(snapshot(step))
    assert history.steps == (1, 2)
    assert history.before(5).step == 2
    assert history.before(1).step == 1
    with pytest.raises(SnapshotError, match="larger capacity"):
        history.before(0)
    if on_disk:
        assert len(list(tmp_path.iterdir())) == 2


def test_a_directory_is_taken_up_again(tmp_path: Path) -> None:
    first = SnapshotBuffer(capacity=3, directory=tmp_path)
    for step in range(3):
        first.append(snapshot(step))
    first.pin("epoch-5", snapshot(7))
    again = SnapshotBuffer(capacity=3, directory=tmp_path)
    assert again.steps == (0, 1, 2)
    assert again.at("epoch-5").step == 7
    again.append(snapshot(1))  # a run that begins anew forgets what came later
    assert again.steps == (0, 1)


def test_state_travels() -> None:
    history = SnapshotBuffer(capacity=2)
    history.append(snapshot(4))
    history.pin("x", snapshot(1))
    other = SnapshotBuffer(capacity=2)
    other.load_state_dict(history.state_dict())
    assert other.steps == (4,)
    assert other.labels == ("x",)


def test_snapshots_are_taken_when_due() -> None:
    snapshots = SnapshotBuffer(capacity=1, every=3)
    assert all(map(snapshots.due, range(7)))  # an empty ring has nothing to go back to
    snapshots.append(snapshot(0))
    assert [step for step in range(7) if snapshots.due(step)] == [0, 3, 6]
    assert not SnapshotBuffer(capacity=0).due(0)


@pytest.mark.parametrize(("capacity", "every"), [(-1, 1), (1, 0)])
def test_bad_arguments_are_told(capacity: int, every: int) -> None:
    with pytest.raises(SnapshotError, match="wanted at least"):
        SnapshotBuffer(capacity, every=every)


def test_bad_labels_are_told() -> None:
    with pytest.raises(SnapshotError, match="label"):
        SnapshotBuffer().pin("../x", snapshot(0))


def test_a_fork_shares_snapshots_and_goes_its_own_way(tmp_path: Path) -> None:
    for history in (SnapshotBuffer(capacity=2), SnapshotBuffer(capacity=2, directory=tmp_path / "h")):
        learner = tiny_learner(snapshots=history)
        for i in range(3):
            learner.step(tiny_batch(seed=i))
        history.pin("release", learner.snapshot())
        fork = history.shallow_copy()
        assert (fork.steps, fork.labels) == (history.steps, history.labels) == ((1, 2), ("release",))
        learner.step(tiny_batch(seed=3))
        assert history.steps == (2, 3)
        assert fork.steps == (1, 2)
        assert torch.equal(fork.at(2).params["fc.weight"], history.at(2).params["fc.weight"])
        fork.forget_after(0)
        assert history.steps == (2, 3)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 9, 40])
def test_a_history_that_is_to_reach_so_far_does_with_five_snapshots(steps: int) -> None:
    history = SnapshotBuffer.for_rewind(steps)
    assert history.reach >= steps
    assert history.capacity <= 5
