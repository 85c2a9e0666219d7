"""Decodes any map-style torch Dataset of (image, label) pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from taster.data.image_form import ImageForm
from taster.data.images import Images
from taster.errors import DataError

OnProgress = Callable[[int, int], None]
"""Called with the number of images decoded so far and the number of all."""

Layout = Literal["chw", "hwc"]
"""Order of an array's axes: channels first or last."""

_MOST_CLASSES = 2**31 - 1


def decode_images(
    dataset: Any,
    name: str,
    on_progress: OnProgress | None = None,
    layout: Layout | None = None,
    form: ImageForm | None = None,
) -> Images:
    """Every image of a data set as uint8, and every label.

    Args:
        dataset: has a length and gives (image, label) by index. An image is a PIL image, or an array or tensor of bytes
            or of floating point in [0, 1], [h, w], [channels, h, w] or [h, w, channels].
        name: for error messages.
        on_progress: called after every thousand images.
        layout: of arrays and tensors with three axes. Default: tensors have their channels first; arrays have them
            where the shape leaves no doubt, which is along the one outer axis of length 1 or 3.
        form: what each image is converted to. Default: it stays as it is.

    Raises:
        DataError: if the data set is not of this form, with the row at fault.
    """
    try:
        total = len(dataset)
    except Exception as error:  # a TypeError, or whatever the user's code raises
        raise DataError(
            f"{name}: got a {type(dataset).__name__} without a length, wanted a map-style data set"
        ) from error
    images: list[Tensor] = []
    labels: list[int] = []
    for row in range(total):
        try:
            image, label = dataset[row]
        except Exception as error:  # whatever the user's code or a decoder raises
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{name}: row {row} cannot be read as (image, label): {type(error).__name__}: {error}"
            ) from error
        decoded = to_bytes(image, f"{name}: row {row}", layout)
        images.append(decoded if form is None else form.apply(decoded, f"{name}: row {row}"))
        labels.append(_label(label, f"{name}: row {row}"))
        if images[-1].shape != images[0].shape:
            same_size = images[-1].shape[1:] == images[0].shape[1:]
            hint = "data.color = 'gray' or 'rgb' converts" if same_size else "data.resize = [height, width] scales"
            raise DataError(
                f"{name}: row {row} is an image of {list(images[-1].shape)}, row 0 of {list(images[0].shape)}; "
                f"wanted all of one shape: {hint} them"
            )
        if on_progress is not None and (row % 1000 == 999 or row == total - 1):
            on_progress(row + 1, total)
    if not images:
        raise DataError(f"{name}: got no images")
    return Images(torch.stack(images), torch.tensor(labels))


def to_bytes(image: Any, where: str, layout: Layout | None = None) -> Tensor:
    """One image as uint8 [channels, h, w].

    Raises:
        DataError: if it is not an image, or the order of its axes is in doubt; the message begins with `where`.
    """
    tensor = image.detach().cpu() if isinstance(image, Tensor) else _from_array(image, where)
    if tensor.dim() == 2:
        tensor = tensor[None]
    elif tensor.dim() != 3:
        raise DataError(f"{where}: got an image of {list(tensor.shape)}, wanted [h, w], [channels, h, w] or its like")
    elif _channels_last(tensor, isinstance(image, Tensor), layout, where):
        tensor = tensor.permute(2, 0, 1)
    if tensor.numel() == 0:
        raise DataError(f"{where}: got an image of {list(tensor.shape)}, wanted at least one pixel")
    if tensor.is_floating_point():
        low, high = (float(v) for v in torch.aminmax(tensor))
        if not (low >= 0 and high <= 1):
            raise DataError(f"{where}: got values from {low:g} to {high:g}, wanted floating point in [0, 1]")
        return (tensor * 255).round().to(torch.uint8).contiguous()
    if tensor.dtype != torch.uint8:
        raise DataError(f"{where}: got an image of {tensor.dtype}, wanted bytes, or floating point in [0, 1]")
    return tensor.contiguous()


def _from_array(image: Any, where: str) -> Tensor:
    """A PIL image, or whatever numpy can make an array of."""
    try:
        array = np.ascontiguousarray(_plain(image, where) if hasattr(image, "convert") else image)
        if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise DataError(f"{where}: got {type(image).__name__}, wanted an image")
        # A copy, as an array may be read-only. A number becomes an array of one axis, which is no image either.
        return torch.from_numpy(array.copy())
    except DataError:
        raise
    except Exception as error:  # a truncated file, whose pixels PIL reads only now; an array of odd lengths
        raise DataError(f"{where}: cannot be read as an image: {type(error).__name__}: {error}") from error


def _plain(image: Any, where: str) -> Any:
    """A PIL image as gray or RGB; palettes are resolved and alpha is dropped."""
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{where}: got an image of mode {image.mode!r}, wanted 8 bits a channel; scale it first")
    # PIL converts premultiplied alpha to straight alpha and to nothing else.
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def _channels_last(tensor: Tensor, from_torch: bool, layout: Layout | None, where: str) -> bool:
    """Whether the last of three axes holds the channels."""
    if layout is not None:
        return layout == "hwc"
    first, last = tensor.shape[0], tensor.shape[2]
    if from_torch:
        if first <= 4 or last > 4:  # torch's convention
            return False
    elif (first in (1, 3)) != (last in (1, 3)):
        return last in (1, 3)
    raise DataError(
        f"{where}: got an image of {list(tensor.shape)}, whose shape does not tell which axis holds the channels; "
        "wanted data.layout = 'hwc' (channels last) or 'chw' (channels first)"
    )


def _label(label: Any, where: str) -> int:
    try:
        number = int(label)
        whole = number == float(label)
    except Exception as error:  # text, infinity, tensors of several numbers, whatever is no number
        raise DataError(f"{where}: got the label {label!r}, wanted a whole number") from error
    if not whole or not 0 <= number <= _MOST_CLASSES:
        raise DataError(f"{where}: got the label {label!r}, wanted a whole number of at least 0")
    return number
