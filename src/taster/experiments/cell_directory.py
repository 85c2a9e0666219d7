"""The folder of one cell of the grid: its steps as they are made, its row when it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from torch import Tensor

from taster.core.checkpoint import save_state, write_atomically
from taster.errors import RunDirectoryError, TasterError
from taster.experiments.files import parse_json, read_bytes, read_json, read_state
from taster.experiments.results import AnyContent, AnyLine, CellKey, Content, FailedCell, Line

_TENSORS = ConfigDict(arbitrary_types_allowed=True, strict=True)
_CONTENT: TypeAdapter[AnyContent] = TypeAdapter(Content)
_LINE: TypeAdapter[AnyLine] = TypeAdapter(Line)
_FAILED: TypeAdapter[FailedCell] = TypeAdapter(FailedCell)
_IMAGES = TypeAdapter(dict[str, Tensor], config=_TENSORS)
_SCORES = TypeAdapter(dict[str, dict[str, dict[str, Tensor]]], config=_TENSORS)

_FILES = ("steps.jsonl", "images.safetensors", "scores.safetensors", "failed.json", "cell.json")
"""In the order in which they are written: the last says that the cell is done."""


class CellDirectory:
    """The files of one cell.

        steps.jsonl          one line a step, written as the cell runs
        images.safetensors   clean and poisoned samples for the report
        scores.safetensors   every sample's scores
        cell.json            the row and what the report needs besides; written last
        failed.json          in place of cell.json: why the cell came to no result

    Args:
        path: the folder.
        key: the cell's.
    """

    def __init__(self, path: Path, key: CellKey) -> None:
        self.path = path
        self.key = key

    def done(self) -> bool:
        """Whether the cell has run to its end."""
        return (self.path / "cell.json").is_file()

    def begin(self) -> None:
        """Makes the folder and starts an empty steps.jsonl.

        Raises:
            RunDirectoryError: if it cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "failed.json").unlink(missing_ok=True)
            (self.path / "steps.jsonl").write_text("", encoding="utf-8")

    def append(self, step: Mapping[str, Any]) -> None:
        """Adds one step.

        Raises:
            RunDirectoryError: if it cannot be written.
        """
        line = json.dumps(step, allow_nan=False) + "\n"
        with writing(self.path), open(self.path / "steps.jsonl", "a", encoding="utf-8") as file:
            file.write(line)

    def finish(
        self, content: AnyContent, images: Mapping[str, Tensor] | None, scores: Mapping[str, Any] | None
    ) -> None:
        """Writes what is left, cell.json last.

        Raises:
            RunDirectoryError: if it cannot be written.
        """
        text = json_text(content)
        with writing(self.path):
            if images is not None:
                save_state(self.path / "images.safetensors", images)
            if scores is not None:
                save_state(self.path / "scores.safetensors", scores)
            write_atomically(self.path / "cell.json", text.encode())

    def fail(self, reason: str) -> None:
        """Writes why the cell came to no result. It is not done: a run that is resumed tries it again.

        Raises:
            RunDirectoryError: if it cannot be written.
        """
        with writing(self.path):
            write_atomically(self.path / "failed.json", json_text({**self.key, "reason": reason}).encode())

    def contents(self) -> dict[str, bytes]:
        """The files of a cell that has ended, by name, for another machine's `write_contents`.

        Raises:
            RunDirectoryError: if one cannot be read.
        """
        return {name: read_bytes(self.path / name) for name in _FILES if (self.path / name).is_file()}

    def write_contents(self, contents: Mapping[str, bytes]) -> None:
        """Writes the files that another machine's `contents` returned, cell.json last. Files of other names, which no
        cell has, are left out.

        Raises:
            RunDirectoryError: if they cannot be written.
        """
        self.begin()
        with writing(self.path):
            for name in _FILES:
                if name in contents:
                    write_atomically(self.path / name, contents[name])

    def failure(self) -> FailedCell | None:
        """Why the cell came to no result; None if it did not fail.

        Raises:
            RunDirectoryError: if failed.json cannot be read, has another shape, or is of another cell.
        """
        path = self.path / "failed.json"
        if self.done() or not path.is_file():
            return None
        found = read_json(path, _FAILED)
        self._check_key(path, found)
        return found

    def read(self) -> AnyContent:
        """The content of cell.json.

        Raises:
            RunDirectoryError: if it cannot be read, has another shape, or is of another cell.
        """
        path = self.path / "cell.json"
        content = read_json(path, _CONTENT)
        self._check_key(path, content["row"])
        return content

    def steps(self) -> list[AnyLine]:
        """The lines of steps.jsonl.

        Raises:
            RunDirectoryError: if it cannot be read, or a line has another shape or is of another cell.
        """
        path = self.path / "steps.jsonl"
        lines = [parse_json(line, _LINE, path) for line in read_bytes(path).splitlines()]
        for line in lines:
            self._check_key(path, line)
        return lines

    def steps_text(self) -> bytes:
        """The content of steps.jsonl.

        Raises:
            RunDirectoryError: if it cannot be read.
        """
        return read_bytes(self.path / "steps.jsonl")

    def images(self) -> dict[str, Tensor] | None:
        """Samples for the report: by phase, clean and poisoned, [2, k, ...]; under "forming", one sample at iterations
        of its crafting, [k, ...]. None if none were kept.

        Raises:
            RunDirectoryError: if the file cannot be read or has another shape.
        """
        return read_state(self.path / "images.safetensors", _IMAGES)

    def scores(self) -> dict[str, dict[str, dict[str, Tensor]]] | None:
        """Every sample's score by score, phase and kind ("clean", "poisoned"), [n]; None if there were no scores.

        Raises:
            RunDirectoryError: if the file cannot be read or has another shape.
        """
        return read_state(self.path / "scores.safetensors", _SCORES)

    def _check_key(self, path: Path, found: Any) -> None:
        for name, wanted in self.key.items():
            if found[name] != wanted:
                raise RunDirectoryError(
                    f"{self.path}: {path.name} is of another cell: {name}: got {found[name]!r:.80}, wanted {wanted!r}"
                )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write into an error that says how to go on.

    Raises:
        RunDirectoryError: instead of OSError.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, TasterError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunDirectoryError(
            f"{path}: cannot be written: {reason}. What is there already is whole; mend the "
            "cause and go on with --resume"
        ) from error


def json_text(content: Any) -> str:
    """JSON as a run's files have it. NaN and infinity are refused."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
