"""Tensors as Flower's arrays, and back. What comes from others is checked before it is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn

from taster.core.types import Tensors
from taster.errors import ModelError

_HEADER = 4096
"""Bytes that NumPy's format may take beside the numbers."""


def to_array_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as a record, in their order. Half precision that NumPy does not know goes as float32."""
    return ArrayRecord({name: Array(_plain(tensor).numpy()) for name, tensor in tensors.items()})


def model_arrays(model: nn.Module) -> ArrayRecord:
    """A model's `state_dict` as a record."""
    return to_array_record(model.state_dict())


def load_model(model: nn.Module, arrays: ArrayRecord) -> None:
    """Puts what `model_arrays` made into a model of the same kind.

    Raises:
        ModelError: for arrays of another model; nothing has been loaded then.
    """
    like = model.state_dict()
    if set(arrays) != set(like):
        raise ModelError(f"got arrays of another model: their names differ in {sorted(set(arrays) ^ set(like))}")
    try:
        found = from_array_record(arrays, like)
    except ValueError as error:
        raise ModelError(f"got arrays of another model: {error}") from error
    model.load_state_dict(found)


def from_array_record(arrays: ArrayRecord, like: Mapping[str, Tensor]) -> Tensors:
    """The arrays of these names, each with its namesake's shape, dtype and device.

    Raises:
        ValueError: for one that is missing, of another shape, or cannot be read; the message says which and why.
    """
    return {name: _read(arrays, name, tensor) for name, tensor in like.items()}


def _read(arrays: ArrayRecord, name: str, like: Tensor) -> Tensor:
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"sent no {name!r}, wanted one of shape {list(like.shape)}")
    # Sixteen bytes a number are more than any kind of number has; a shape that is only claimed fills no memory.
    if len(array.data) > 16 * like.numel() + _HEADER:
        raise ValueError(f"sent {len(array.data)} bytes as {name!r}, wanted {list(like.shape)} numbers")
    try:
        found = torch.from_numpy(array.numpy().copy())
    except Exception as error:  # whatever bytes from elsewhere can make NumPy raise
        raise ValueError(f"sent {name!r} in a form that cannot be read ({type(error).__name__}: {error})") from error
    if found.shape != like.shape:
        raise ValueError(f"sent {name!r} of shape {list(found.shape)}, wanted {list(like.shape)}")
    if found.is_complex():
        raise ValueError(f"sent {name!r} in numbers of {found.dtype}, wanted {like.dtype}")
    return found.to(like)


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
