"""Any map-style torch Dataset of (image, label) pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taster.data.images import Images
from taster.errors import DataError

OnProgress = Callable[[int, int], None]
"""Told how many of how many images have been decoded."""


def decode_images(dataset: Any, name: str, on_progress: OnProgress | None = None) -> Images:
    """Every image of a data set as uint8, and every label.

    Args:
        dataset: has a length and gives (image, label) by index. An image is a PIL image, or an array or tensor: bytes,
            or floating point in [0, 1], [h, w], [channels, h, w] or (arrays) [h, w, channels].
        name: for error messages.
        on_progress: told of every thousandth image.

    Raises:
        DataError: for a data set that is not that, with the row at fault.
    """
    try:
        total = len(dataset)
    except TypeError as error:
        raise DataError(
            f"{name}: got a {type(dataset).__name__} without a length, wanted a map-style data set"
        ) from error
    images: list[Tensor] = []
    labels: list[int] = []
    for row in range(total):
        try:
            image, label = dataset[row]
        except Exception as error:  # whatever the user's code or a decoder raises
            raise DataError(
                f"{name}: row {row} cannot be read as (image, label): {type(error).__name__}: {error}"
            ) from error
        images.append(to_bytes(image, f"{name}: row {row}"))
        labels.append(_label(label, f"{name}: row {row}"))
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"{name}: row {row} is an image of {list(images[-1].shape)}, row 0 of {list(images[0].shape)}; "
                "wanted all of one size: resize them beforehand"
            )
        if on_progress is not None and (row % 1000 == 999 or row == total - 1):
            on_progress(row + 1, total)
    if not images:
        raise DataError(f"{name}: got no images")
    return Images(torch.stack(images), torch.tensor(labels))


def to_bytes(image: Any, where: str) -> Tensor:
    """One image as uint8 [channels, h, w]."""
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
    else:
        if hasattr(image, "convert"):  # PIL; palettes and alpha become plain grey or RGB
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{where}: got an image of mode {image.mode!r}, wanted 8 bits a channel; scale it first"
                )
            image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        array = np.array(image)
        if array.dtype == object or array.ndim not in (2, 3):
            raise DataError(f"{where}: got {type(image).__name__}, wanted an image")
        tensor = torch.from_numpy(array)
        if tensor.dim() == 3 and tensor.shape[-1] in (1, 3):
            tensor = tensor.permute(2, 0, 1)
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() != 3:
        raise DataError(f"{where}: got an image of {list(tensor.shape)}, wanted [h, w] or [channels, h, w]")
    if tensor.is_floating_point():
        low, high = (float(v) for v in torch.aminmax(tensor))
        if not (low >= 0 and high <= 1):
            raise DataError(f"{where}: got values from {low:g} to {high:g}, wanted floating point in [0, 1]")
        return (tensor * 255).round().to(torch.uint8).contiguous()
    if tensor.dtype != torch.uint8:
        raise DataError(f"{where}: got an image of {tensor.dtype}, wanted bytes, or floating point in [0, 1]")
    return tensor.contiguous()


def _label(label: Any, where: str) -> int:
    try:
        number = int(label)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: got the label {label!r}, wanted a whole number") from error
    if number != float(label):
        raise DataError(f"{where}: got the label {label!r}, wanted a whole number")
    return number
