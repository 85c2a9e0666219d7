"""Conversion between tensors and Flower's arrays. Arrays of others are checked before they are read."""

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
    """Tensors as a record, in their order. bfloat16, which NumPy does not know, is widened to float32."""
    return ArrayRecord({name: Array(_numpy_ready(tensor).numpy()) for name, tensor in tensors.items()})


def model_arrays(model: nn.Module) -> ArrayRecord:
    """A model's `state_dict` as a record."""
    return to_array_record(model.state_dict())


def load_model(model: nn.Module, arrays: ArrayRecord) -> None:
    """Loads the record of `model_arrays` into a model of the same kind.

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
        ValueError: for one that is missing, of another shape, or unreadable; the message says which and why.
    """
    return {name: _read(arrays, name, tensor) for name, tensor in like.items()}


def _read(arrays: ArrayRecord, name: str, like: Tensor) -> Tensor:
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"sent no {name!r}, wanted one of shape {list(like.shape)}")
    # No dtype has more than sixteen bytes a number; the shape is read from the data, so that one which is only claimed
    # allocates no memory.
    if type(array.data) is not bytes or len(array.data) > 16 * like.numel() + _HEADER:
        size = f"{len(array.data)} bytes" if type(array.data) is bytes else type(array.data).__name__
        raise ValueError(f"sent {size} as {name!r}, wanted {list(like.shape)} numbers")
    try:
        found = torch.from_numpy(array.numpy().copy())
    except Exception as error:  # whatever bytes from elsewhere make NumPy raise
        raise ValueError(f"sent {name!r} in a form that cannot be read ({type(error).__name__})") from error
    if found.shape != like.shape:
        raise ValueError(f"sent {name!r} of shape {list(found.shape)}, wanted {list(like.shape)}")
    if found.is_complex() or found.dtype == torch.bool != like.dtype:
        raise ValueError(f"sent {name!r} in numbers of {found.dtype}, wanted {like.dtype}")
    return found.to(like)


def _numpy_ready(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
