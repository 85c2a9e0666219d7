"""Files of a run: one reader that checks their shape, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from taster.core.checkpoint import load_state
from taster.core.format_version import KEY, Format
from taster.errors import CheckpointError, RunDirectoryError

T = TypeVar("T")

_MARKED: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])

_SHOWN = 3
"""Faults of a file that a message lists."""


def read_bytes(path: Path) -> bytes:
    """Reads a file.

    Raises:
        RunDirectoryError: if it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunDirectoryError(f"{path.parent}: {path.name} cannot be read: {reason}") from error


def parse_json(content: bytes | str, shape: TypeAdapter[T], path: Path) -> T:
    """Parses JSON of a known shape.

    Args:
        content: UTF-8.
        shape: what it has to be.
        path: the file it comes from, for the error.

    Raises:
        RunDirectoryError: if it is not JSON, is nested too deeply, or has another shape.
    """
    try:
        return shape.validate_json(content)
    except ValidationError as error:
        raise _misshapen(path, error) from error


def read_json(path: Path, shape: TypeAdapter[T], form: Format | None = None) -> T:
    """Reads a JSON file of a known shape.

    Args:
        path: the file.
        shape: what it has to be.
        form: of a file that says its format version; asked first, as another version may have another shape.

    Raises:
        RunDirectoryError: if it cannot be read, is not JSON, or has another format or shape.
    """
    content = read_bytes(path)
    if form is not None:
        form.check(parse_json(content, _MARKED, path).get(KEY), str(path))
    return parse_json(content, shape, path)


def check_mark(path: Path, form: Format) -> None:
    """Refuses a JSON file of another format. What is damaged is of none here: whoever reads it says so.

    Raises:
        RunDirectoryError: if it says another format.
    """
    try:
        found = parse_json(read_bytes(path), _MARKED, path)
    except RunDirectoryError:
        return
    form.check(found.get(KEY), str(path))


def read_state(path: Path, shape: TypeAdapter[T]) -> T | None:
    """Reads a safetensors file of a known shape; None if there is none.

    Raises:
        RunDirectoryError: if it cannot be read or has another shape.
    """
    if not path.is_file():
        return None
    try:
        return shape.validate_python(load_state(path))
    except ValidationError as error:
        raise _misshapen(path, error) from error
    except CheckpointError as error:
        raise RunDirectoryError(f"{path.parent}: {path.name} cannot be read: {error}") from error


def _misshapen(path: Path, error: ValidationError) -> RunDirectoryError:
    faults = [_line(dict(fault)) for fault in error.errors(include_url=False, include_context=False)]
    shown = "; ".join(faults[:_SHOWN]) + (f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")
    return RunDirectoryError(f"{path.parent}: {path.name} is not what taster run writes: {shown}")


def _line(fault: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    wanted = str(fault["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    if fault["type"] in ("missing", "json_invalid"):
        return f"{where}: missing" if fault["type"] == "missing" else wanted
    if fault["type"] == "extra_forbidden":
        return f"{where}: got an unknown key"
    return f"{where + ': ' if where else ''}got {fault['input']!r:.80}, wanted {wanted}"
