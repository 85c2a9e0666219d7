"""Weights that were trained elsewhere, from a file into a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from taster.core.checkpoint import load_state
from taster.errors import CheckpointError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""How the files of torch.save begin: those of today, and those from before PyTorch 1.6."""
_WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts keep a state dict beside the optimizer's state, the epoch and so on."""
_SHOWN = 12


def load_weights(model: nn.Module, path: str) -> None:
    """Loads a state dict from a file into a model. Weights in half precision are widened.

    Raises:
        CheckpointError: see `read_weights`; and if it does not fit, with the names of the first mismatches.
    """
    saved, own = read_weights(path), model.state_dict()
    faults = [f"{name}: missing in the file" for name in own if name not in saved]
    faults += [f"{name}: not in the model" for name in saved if name not in own]
    faults += [
        f"{name}: got a {type(value).__name__}, wanted a tensor"
        for name, value in saved.items()
        if isinstance(own.get(name), Tensor) and not isinstance(value, Tensor)
    ]
    faults += [
        f"{name}: got {list(saved[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in own.items()
        if isinstance(saved.get(name), Tensor) and saved[name].shape != tensor.shape
    ]
    if faults:
        shown = [f"  {fault}" for fault in faults[:_SHOWN]]
        shown += [f"  and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise CheckpointError(f"{path} does not fit the model:\n" + "\n".join(shown))
    try:
        model.load_state_dict(saved)
    except RuntimeError as error:  # what a module's own loading does not take, such as an extra state
        raise CheckpointError(f"{path} does not fit the model: {error}") from error


def read_weights(path: str | Path) -> dict[str, Any]:
    """The state dict in a safetensors file, or in a file of `torch.save`, which is read with `weights_only`: nothing in
    it is run. What the file is, its first bytes tell, not its name.

    A state dict may lie under the key model, state_dict or model_state_dict of a dictionary, as training scripts and
    `taster.save_state` of a learner's state write it.

    Raises:
        CheckpointError: if the file is missing or damaged, or holds anything else, such as a whole model.
    """
    try:
        with open(path, "rb") as file:
            begins = file.read(len(_ZIP))
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise CheckpointError(f"{path}: {reason}, wanted a state dict, as safetensors or of torch.save") from error
    saved = _load_pickled(path) if begins == _ZIP or begins.startswith(_PICKLE) else load_state(path)
    for key in _WRAPPERS:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
            break
    if not _is_state_dict(saved):
        keys = f" of {', '.join(map(str, list(saved)[:6]))}" if isinstance(saved, Mapping) else ""
        kind = "dictionary" if isinstance(saved, Mapping) else type(saved).__name__
        raise CheckpointError(
            f"{path}: got a {kind}{keys}, wanted a state dict, or one under the key {' or '.join(_WRAPPERS)}: names of "
            "parameters with their tensors, as model.state_dict() returns them"
        )
    return dict(saved)


def _load_pickled(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors, which would run code when it is loaded; wanted a state dict. Where you "
            "trust the file, write one: torch.save(torch.load(FILE, weights_only=False).state_dict(), 'weights.pt')"
        ) from error
    except Exception as error:  # of a damaged file: RuntimeError, EOFError, ValueError, KeyError, AssertionError, ...
        raise CheckpointError(
            f"{path}: not a whole file of torch.save ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _is_state_dict(saved: Any) -> TypeGuard[Mapping[str, Any]]:
    return (
        isinstance(saved, Mapping)
        and any(isinstance(value, Tensor) for value in saved.values())
        and all(isinstance(name, str) for name in saved)
    )
