"""Snapshots of a learner by step: to rewind to, and to compare the model with its own past."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taster.core.checkpoint import load_state, save_state
from taster.core.foreach import cloned_tensors
from taster.core.types import Tensors
from taster.errors import CheckpointError, SnapshotError


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A learner's state before one step.

    Attributes:
        step: its index.
        params: the parameters that were trained, by name; of frozen ones nothing is kept.
        buffers: by name.
        optimizers: the state of each, as `torch.optim.Optimizer.state_dict` gives it.
        also: the state of what joined the transaction besides.
    """

    step: int
    params: Tensors
    buffers: Tensors
    optimizers: list[dict[str, Any]]
    also: list[Any] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as nested dictionaries of tensors and plain values."""
        return {name: getattr(self, name) for name in ("step", "params", "buffers", "optimizers", "also")}


class SnapshotBuffer:
    """A ring of snapshots, and some kept for good under a label.

    Args:
        capacity: how many snapshots the ring holds; the oldest is forgotten first.
        every: a snapshot is taken before each step whose index it divides.
        device: of the snapshots; None keeps them on the model's.
        directory: keeps snapshots as safetensors files there instead of in memory; made if missing. Files of an
            earlier buffer found there are used.

    Raises:
        SnapshotError: for a capacity under 0 or an interval under 1.
    """

    def __init__(
        self,
        capacity: int = 4,
        *,
        every: int = 1,
        device: torch.device | str | None = None,
        directory: Path | str | None = None,
    ) -> None:
        if capacity < 0 or every < 1:
            raise SnapshotError(f"got capacity {capacity} and every {every}, wanted at least 0 and at least 1")
        self.capacity = capacity
        self.every = every
        self._device = device
        self._directory = None if directory is None else Path(directory)
        self._ring: dict[int, Snapshot | Path] = {}
        self._pinned: dict[str, Snapshot | Path] = {}
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in self._directory.glob("step-*.safetensors"):
                self._ring[int(path.stem.removeprefix("step-"))] = path
            for path in self._directory.glob("pinned-*.safetensors"):
                self._pinned[path.stem.removeprefix("pinned-")] = path
            self._ring = dict(sorted(self._ring.items()))
        self._dropped: list[Path] = []
        self._held = False
        self._moved: dict[Path, Path] = {}

    @classmethod
    def for_rewind(cls, steps: int) -> SnapshotBuffer:
        """A buffer that reaches `steps` steps back with at most five snapshots."""
        every = max(1, math.ceil(steps / 4))
        return cls(math.ceil(steps / every) + 1, every=every)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the snapshots in the ring, oldest first."""
        return tuple(self._ring)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the snapshots kept for good."""
        return tuple(self._pinned)

    @property
    def reach(self) -> int:
        """The number of steps that the full ring is certain to reach back."""
        return max(0, self.capacity - 1) * self.every

    def hold(self) -> dict[int, Snapshot | Path]:
        """Keeps the files of snapshots that are dropped from now on until `prune`, so that `roll_back` can have them
        back.

        Returns:
            the ring's entries by step, for `roll_back` and `state_dict`.
        """
        self._held = True
        return dict(self._ring)

    def roll_back(self, ring: dict[int, Snapshot | Path]) -> None:
        """Restores the entries that `ring` gave; files that were written since are deleted."""
        kept = set(ring.values()) if self._directory is not None else set()
        self._dropped = [path for path in self._dropped if path not in kept]
        self._held = False
        for path, aside in self._moved.items():
            aside.replace(path)
        self._moved.clear()
        if self._directory is not None:
            for path in self._directory.glob("step-*.safetensors"):
                if path not in kept:
                    path.unlink(missing_ok=True)
        self._ring = dict(ring)

    def contents(self) -> tuple[dict[int, Snapshot | Path], dict[str, Snapshot | Path]]:
        """All entries, for `put_back`."""
        return dict(self._ring), dict(self._pinned)

    def put_back(self, contents: tuple[dict[int, Snapshot | Path], dict[str, Snapshot | Path]]) -> None:
        """Restores the entries that `contents` gave."""
        self.roll_back(contents[0])
        self._pinned = dict(contents[1])

    def prune(self) -> None:
        """Deletes the files of snapshots that were dropped since `hold`."""
        while self._dropped:
            path = self._dropped[-1]
            if path not in self._ring.values():
                path.unlink(missing_ok=True)
            self._dropped.pop()
        for aside in self._moved.values():
            aside.unlink(missing_ok=True)
        self._moved.clear()
        self._held = False

    def clear_ring(self) -> None:
        """Drops all snapshots but the labelled ones."""
        for step in list(self._ring):
            self._drop(step)

    def due(self, step: int) -> bool:
        """Whether a snapshot is to be taken before this step; always while the ring is empty."""
        return self.capacity > 0 and (step % self.every == 0 or not self._ring)

    def append(self, snapshot: Snapshot) -> None:
        """Appends a copy of a snapshot to the ring; a full ring drops its oldest.

        Snapshots of later steps are dropped: they belong to steps that were undone, or to an earlier run.
        """
        self.forget_after(snapshot.step)
        self._ring[snapshot.step] = self._keep(snapshot, f"step-{snapshot.step:09d}")
        while len(self._ring) > self.capacity:
            self._drop(next(iter(self._ring)))

    def pin(self, label: str, snapshot: Snapshot) -> None:
        """Keeps a copy of a snapshot under a label of letters, digits, dots, dashes and underscores.

        Raises:
            SnapshotError: for any other label.
        """
        if not label or not all(c.isalnum() or c in "._-" for c in label):
            raise SnapshotError(f"got the label {label!r}, wanted letters, digits, dots, dashes and underscores")
        self._pinned[label] = self._keep(snapshot, f"pinned-{label}")

    def at(self, step_or_label: int | str) -> Snapshot:
        """The snapshot before a step, or under a label.

        Raises:
            SnapshotError: when there is none, with those there are.
        """
        kept = self._pinned.get(step_or_label) if isinstance(step_or_label, str) else self._ring.get(step_or_label)
        if kept is None:
            raise SnapshotError(
                f"no snapshot of {step_or_label!r}; there are steps {list(self.steps)} and labels {list(self.labels)}"
            )
        return _read(kept) if isinstance(kept, Path) else kept

    def before(self, step: int) -> Snapshot:
        """The newest snapshot that is no newer than the state before `step`.

        Raises:
            SnapshotError: when the ring reaches back less far.
        """
        older = [s for s in self._ring if s <= step]
        if not older:
            raise SnapshotError(
                f"wanted a snapshot of step {step} or older, the ring holds {list(self.steps)}; "
                "give the learner a SnapshotBuffer with a larger capacity or interval"
            )
        return self.at(max(older))

    def forget_after(self, step: int) -> None:
        """Drops the snapshots newer than `step`, which after a rewind belong to steps that were undone."""
        for newer in [s for s in self._ring if s > step]:
            self._drop(newer)

    def shallow_copy(self) -> SnapshotBuffer:
        """Another buffer in memory that shares the snapshots of this one. They are never written to."""
        other = SnapshotBuffer(self.capacity, every=self.every, device=self._device)
        other._ring = {step: self.at(step) for step in self._ring}
        other._pinned = {label: self.at(label) for label in self._pinned}
        return other

    def state_dict(self, ring: dict[int, Snapshot | Path] | None = None) -> dict[str, Any]:
        """All snapshots that lie in memory; those on disk stay there and are found again by their directory.

        Args:
            ring: entries of an earlier moment; None for those of now.
        """
        entries = self._ring if ring is None else ring
        return {
            "ring": [s.to_dict() for s in entries.values() if isinstance(s, Snapshot)],
            "pinned": {label: s.to_dict() for label, s in self._pinned.items() if isinstance(s, Snapshot)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads the snapshots of `state_dict` in place of those in memory.

        Raises:
            CheckpointError: when the state is not one of a SnapshotBuffer; nothing has been loaded then.
        """
        try:
            ring = [Snapshot(**entry) for entry in state["ring"]]
            labelled = {str(label): Snapshot(**entry) for label, entry in state["pinned"].items()}
            steps = [int(snapshot.step) for snapshot in (*ring, *labelled.values())]
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise CheckpointError(
                f"got snapshots of another form ({error}), wanted SnapshotBuffer.state_dict()"
            ) from error
        if any(not isinstance(s.params, dict) or not isinstance(s.buffers, dict) for s in (*ring, *labelled.values())):
            raise CheckpointError(f"got snapshots of steps {steps} without tensors by name")
        self._ring = {step: s for step, s in self._ring.items() if isinstance(s, Path)}
        self._pinned = {label: s for label, s in self._pinned.items() if isinstance(s, Path)}
        for snapshot in ring:
            self.append(snapshot)
        for label, snapshot in labelled.items():
            self.pin(label, snapshot)

    def _keep(self, snapshot: Snapshot, name: str) -> Snapshot | Path:
        if self._directory is None:
            return Snapshot(**_copy(snapshot.to_dict(), self._device))
        path = self._directory / f"{name}.safetensors"
        if self._held and path.exists() and path not in self._moved:
            self._moved[path] = path.with_suffix(".before")
            path.replace(self._moved[path])
        save_state(path, snapshot.to_dict())
        return path

    def _drop(self, step: int) -> None:
        kept = self._ring.pop(step)
        if isinstance(kept, Path):
            if self._held:
                self._dropped.append(kept)
            else:
                kept.unlink(missing_ok=True)


def _read(path: Path) -> Snapshot:
    try:
        return Snapshot(**load_state(path))
    except TypeError as error:
        raise CheckpointError(f"{path}: not a snapshot: {error}") from error


def _copy(value: Any, device: torch.device | str | None) -> Any:
    """A deep copy of nested containers with tensors, moved to a device where one is given."""
    if device is not None:
        return _mapped(value, lambda tensor: tensor.detach().to(device, copy=True))
    tensors: list[Tensor] = []
    _mapped(value, tensors.append)
    copies = iter(cloned_tensors(tensors))
    return _mapped(value, lambda _: next(copies))


def _mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Nested containers, new ones, with what a function makes of each tensor in the place of it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(inner, function) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(inner, function) for inner in value)
    return value
