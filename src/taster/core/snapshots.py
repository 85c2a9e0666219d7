"""Snapshots of a learner by step: to rewind to, and to compare the model with its own past."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taster.core.checkpoint import load_state, save_state
from taster.core.types import Tensors
from taster.errors import SnapshotError


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A learner's state before one step. `optimizer` is in the form of `torch.optim.Optimizer.state_dict`."""

    step: int
    params: Tensors
    buffers: Tensors
    optimizer: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as nested dictionaries of tensors and plain values."""
        return {"step": self.step, "params": self.params, "buffers": self.buffers, "optimizer": self.optimizer}


class SnapshotBuffer:
    """A ring of snapshots, and some kept for good under a label.

    Args:
        capacity: how many snapshots the ring holds; the oldest is forgotten first.
        every: a snapshot is taken before each step whose index it divides.
        device: where snapshots lie; None leaves them beside the model.
        directory: keeps snapshots as safetensors files there instead of in memory; made if missing. Files of an
            earlier history found there are taken up again.

    Raises:
        HistoryError: for a capacity under 0 or an interval under 1.
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

    @classmethod
    def for_rewind(cls, steps: int) -> SnapshotBuffer:
        """One that reaches so many steps back with at most five snapshots, which lie the further apart."""
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
        """How many steps before the present one it reaches back for certain, once it is full."""
        return max(0, self.capacity - 1) * self.every

    def due(self, step: int) -> bool:
        """Whether the ring wants a snapshot before this step."""
        return self.capacity > 0 and step % self.every == 0

    def append(self, snapshot: Snapshot) -> None:
        """Puts a snapshot into the ring (copied), in the place of the oldest where it is full.

        Snapshots of later steps are dropped: they are of a past that has been undone, or of an earlier run.
        """
        self.forget_after(snapshot.step)
        self._ring[snapshot.step] = self._keep(snapshot, f"step-{snapshot.step:09d}")
        while len(self._ring) > self.capacity:
            self._drop(next(iter(self._ring)))

    def pin(self, label: str, snapshot: Snapshot) -> None:
        """Keeps a snapshot (copied) for good under a label of letters, digits, dots, dashes and underscores."""
        if not label or not all(c.isalnum() or c in "._-" for c in label):
            raise SnapshotError(f"got the label {label!r}, wanted letters, digits, dots, dashes and underscores")
        self._pinned[label] = self._keep(snapshot, f"pinned-{label}")

    def at(self, step_or_label: int | str) -> Snapshot:
        """The snapshot before a step, or under a label.

        Raises:
            HistoryError: when there is none, with those there are.
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
            HistoryError: when the ring reaches back less far.
        """
        older = [s for s in self._ring if s <= step]
        if not older:
            raise SnapshotError(
                f"wanted a snapshot of step {step} or older, the ring holds {list(self.steps)}; "
                "give the learner a History with a larger capacity or interval"
            )
        return self.at(max(older))

    def forget_after(self, step: int) -> None:
        """Drops the snapshots newer than `step`: after a rewind they are of a past that has been undone."""
        for newer in [s for s in self._ring if s > step]:
            self._drop(newer)

    def shallow_copy(self) -> SnapshotBuffer:
        """Another history of the same snapshots, in memory, which from here on goes its own way. Nothing is copied, as
        snapshots are never written to."""
        other = SnapshotBuffer(self.capacity, every=self.every, device=self._device)
        other._ring = {step: self.at(step) for step in self._ring}
        other._pinned = {label: self.at(label) for label in self._pinned}
        return other

    def state_dict(self) -> dict[str, Any]:
        """All snapshots that lie in memory; those on disk stay there and are found again by their directory."""
        return {
            "ring": [s.to_dict() for s in self._ring.values() if isinstance(s, Snapshot)],
            "pinned": {label: s.to_dict() for label, s in self._pinned.items() if isinstance(s, Snapshot)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the snapshots of `state_dict`, in place of those in memory."""
        self._ring = {step: s for step, s in self._ring.items() if isinstance(s, Path)}
        self._pinned = {label: s for label, s in self._pinned.items() if isinstance(s, Path)}
        for entry in state["ring"]:
            self.append(Snapshot(**entry))
        for label, entry in state["pinned"].items():
            self.pin(label, Snapshot(**entry))

    def _keep(self, snapshot: Snapshot, name: str) -> Snapshot | Path:
        if self._directory is None:
            return Snapshot(**_copy(snapshot.to_dict(), self._device))
        path = self._directory / f"{name}.safetensors"
        save_state(path, snapshot.to_dict())
        return path

    def _drop(self, step: int) -> None:
        kept = self._ring.pop(step)
        if isinstance(kept, Path):
            kept.unlink(missing_ok=True)


def _read(path: Path) -> Snapshot:
    return Snapshot(**load_state(path))


def _copy(value: Any, device: torch.device | str | None) -> Any:
    """A deep copy of nested containers with tensors, moved to a device where one is given."""
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copy(inner, device) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(inner, device) for inner in value)
    return value
