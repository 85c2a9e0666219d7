"""Nested state in one safetensors file. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from taster.core.format_version import KEY, Format, fault_text
from taster.errors import CheckpointError

FILE = Format("a file of taster.save_state", 1, CheckpointError)

_STRUCTURE, _STATE = "taster.structure", "state"
_PARTIAL = ".part"


def save_state(path: Path | str, state: Any) -> None:
    """Writes nested dicts, lists and tuples of tensors and plain values (None, bool, int, float, str).

    The file appears whole or not at all: it is written beside its place and then moved there.

    Raises:
        CheckpointError: for a value that is none of these, and for a path without a folder.
        OSError: when the file cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise CheckpointError(f"got a {type(path).__name__} as the path, wanted save_state(path, state)")
    if not Path(path).parent.is_dir():
        raise CheckpointError(f"{path}: there is no folder {Path(path).parent}, wanted one that is there")
    tensors: dict[str, Tensor] = {}
    # One entry, as safetensors writes several in no order, and the same state should be the same bytes.
    structure = json.dumps({**FILE.mark(), _STATE: _flatten(state, tensors)})
    write_atomically(Path(path), save(tensors, metadata={_STRUCTURE: structure}))


def load_state(path: Path | str) -> Any:
    """Reads what `save_state` wrote; a plain safetensors file of another program comes as a flat dict of tensors.

    Raises:
        CheckpointError: when the file is missing, damaged, or of a newer format.
    """
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            # Cloned, as they would otherwise lie in the file itself and change with it.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file, wanted a safetensors file") from error
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    if _STRUCTURE not in metadata:
        return tensors
    try:
        structure = json.loads(metadata[_STRUCTURE])
        if isinstance(structure, dict) and KEY in structure:
            FILE.check(structure[KEY], str(path))
            structure = structure[_STATE]
        return _unflatten(structure, tensors)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its structure cannot be read ({fault_text(error)}), wanted a file of taster.save_state"
        ) from error


def move_to_device(state: Any, device: torch.device) -> Any:
    """The same nested state with its tensors on this device; those of bytes, as the states of generators are, stay."""
    if isinstance(state, Tensor):
        return state if state.dtype == torch.uint8 else state.to(device)
    if isinstance(state, dict):
        return {name: move_to_device(value, device) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(move_to_device(value, device) for value in state)
    return state


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, finds the old content or the new, never half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def is_partial(path: Path) -> bool:
    """Whether this is what `write_atomically` had begun when it was killed."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The shape of `value` in JSON, with its tensors put into `tensors` under running numbers."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        # A clone: safetensors refuses tensors that share memory, as tied weights do.
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[_flatten(k, tensors), _flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"tuple" if isinstance(value, tuple) else "list": [_flatten(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(f"cannot save a {type(value).__name__}; wanted tensors, numbers, text, None and containers")


def _unflatten(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unflatten(k, tensors): _unflatten(v, tensors) for k, v in content}
    if kind not in ("list", "tuple"):
        raise ValueError(f"a container of kind {kind!r}")
    items = [_unflatten(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items
