"""Refused batches kept aside for their owner to look at: bounded, on disk, never in the way of the loop."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from taster.core.batch import Batch
from taster.core.checkpoint import load_state, save_state, write_atomically
from taster.core.client_updates import ClientUpdates
from taster.core.format_version import KEY, Format, fault_text
from taster.core.nested import plain
from taster.core.step_record import StepRecord
from taster.errors import BatchError, CheckpointError, QuarantineError

_log = logging.getLogger(__name__)

ENTRY = Format("an entry of a quarantine", 1, QuarantineError, remedy="discard it")
_INDEX = "quarantine.jsonl"
_RELEASED = "released"
_DIGITS = 12


class Quarantine:
    """A folder of refused batches; give it to `Learner(on_refusal=...)`.

        quarantine.jsonl       one line a batch: id, step, action, stage, reason, scores, samples, loss
        000017.safetensors     its samples and labels
        released/              those that the owner has let go

    Nested batches are kept as dictionaries, lists and tuples, whatever their containers were. A batch that cannot be
    kept (packed sequences, objects of other kinds), a full disk or a folder that cannot be written is logged and stops
    no training.

    Args:
        directory: made if missing; batches that are there already stay.
        capacity: batches kept; the oldest go first.

    Raises:
        QuarantineError: for a capacity under 1, or (when read) an index that is damaged.
    """

    def __init__(self, directory: Path | str, *, capacity: int = 100) -> None:
        if capacity < 1:
            raise QuarantineError(f"got capacity {capacity}, wanted at least 1")
        self.path: Path = Path(directory)
        self.capacity = capacity

    def __call__(self, record: StepRecord, batch: Batch | ClientUpdates) -> None:
        """Keeps the batch of a refused update. Clients' updates are not kept: a round of them can be many times the
        model."""
        if not isinstance(batch, Batch):
            _log.warning(
                "step %d: %d clients' updates are not kept: a quarantine is for samples", record.step, len(batch)
            )
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            entries = self.entries()
            number = 1 + max((int(path.stem) for path in self._files()), default=0)
            entry: dict[str, Any] = {
                "id": f"{number:06d}",
                "step": record.step,
                "action": record.verdict.action.name,
                "stage": record.verdict.stage,
                "reason": record.verdict.reason,
                "scores": record.to_dict()["evidence"],
                "samples": len(batch),
                "loss": record.loss,
                **ENTRY.mark(),
            }
            # The samples first: what the index names is there.
            save_state(
                self._file(entry["id"]),
                {
                    "x": plain(batch.x, "x"),
                    "y": plain(batch.y, "y"),
                    "loss_weight": batch.loss_weight,
                    "batch_dim": plain(batch.batch_dim, "batch_dim"),
                },
            )
            kept = [*entries, entry][-self.capacity :]
            self._write(kept)
            self._remove({e["id"] for e in entries} - {e["id"] for e in kept})
        except Exception as error:  # whatever is wrong with the folder, training goes on
            _log.error("step %d: its batch could not be kept in %s: %s", record.step, self.path, error)

    def entries(self) -> list[dict[str, Any]]:
        """What is in quarantine, oldest first: the lines of the index.

        Raises:
            QuarantineError: when the index is damaged, or of a newer format.
        """
        path = self.path / _INDEX
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            return [_entry(json.loads(line)) for line in lines]
        except QuarantineError as error:
            raise QuarantineError(f"{path}: {error}") from error
        except (ValueError, OSError, RecursionError) as error:
            raise QuarantineError(
                f"{path}: damaged ({error}); wanted one JSON object a line, with an id of digits. Move it away to "
                "begin a new one"
            ) from error

    def batch(self, entry: str) -> Batch:
        """The samples of an entry, by its id.

        Raises:
            QuarantineError: when there is none, or its file is missing or damaged.
        """
        self._check([entry])
        return _read(self._file(entry))

    def release(self, ids: Iterable[str]) -> None:
        """Lets batches go: `released` gives them.

        Raises:
            QuarantineError: for an id that is not there; nothing has changed then.
        """
        chosen = self._check(ids)
        (self.path / _RELEASED).mkdir(exist_ok=True)
        for entry in chosen:
            self._file(entry).replace(self.path / _RELEASED / self._file(entry).name)
        self._forget(chosen)

    def discard(self, ids: Iterable[str]) -> None:
        """Deletes batches.

        Raises:
            QuarantineError: for an id that is not there; nothing has changed then.
        """
        chosen = self._check(ids)
        self._forget(chosen)
        self._remove(chosen)

    def released(self) -> Iterator[Batch]:
        """The batches let go, oldest first, each deleted when the next is asked for.

        `learner.step(batch, trusted=True)` learns them without asking screens and gates again.
        """
        for path in sorted((self.path / _RELEASED).glob("*.safetensors")):
            yield _read(path)
            path.unlink()

    def _check(self, ids: Iterable[str]) -> set[str]:
        chosen, there = set(ids), [entry["id"] for entry in self.entries()]
        missing = sorted(chosen - set(there))
        if missing:
            raise QuarantineError(f"{self.path}: no {', '.join(missing)}; there are {', '.join(there) or 'none'}")
        return chosen

    def _forget(self, ids: set[str]) -> None:
        self._write([entry for entry in self.entries() if entry["id"] not in ids])

    def _remove(self, ids: set[str]) -> None:
        for entry in ids:
            self._file(entry).unlink(missing_ok=True)

    def _write(self, entries: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        write_atomically(self.path / _INDEX, text.encode())

    def _file(self, entry: str) -> Path:
        return self.path / f"{entry}.safetensors"

    def _files(self) -> Iterator[Path]:
        for folder in (self.path, self.path / _RELEASED):
            yield from (path for path in folder.glob("*.safetensors") if path.stem.isascii() and path.stem.isdigit())


def _entry(found: Any) -> dict[str, Any]:
    """A line of the index. Its id is part of a path, so it has to be digits."""
    if not isinstance(found, dict):
        raise ValueError(f"a line that is a {type(found).__name__}")
    ENTRY.check(found.get(KEY))
    number = found.get("id")
    if not isinstance(number, str) or not (number.isascii() and number.isdigit() and len(number) <= _DIGITS):
        raise ValueError(f"the id {str(number)[:40]!r}")
    return found


def _read(path: Path) -> Batch:
    try:
        state = load_state(path)
        return Batch(state["x"], state["y"], float(state["loss_weight"]), state.get("batch_dim", 0))
    except (CheckpointError, BatchError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise QuarantineError(f"{path}: cannot be read as a batch: {fault_text(error)}") from error
