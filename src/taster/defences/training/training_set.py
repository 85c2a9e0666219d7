"""What a data set must be before it is divided and trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.errors import BatchError, DataError, LabelError


def check_training_set(x: Tensor, y: Tensor, classes: int, *, alike: bool = False, ids: bool = False) -> None:
    """Refuses data that no ensemble could be trained on.

    Args:
        x: samples [n, ...], floating point or uint8; with `ids` also int64.
        y: labels [n], int64.
        classes: number of classes.
        alike: whether all labels may be alike, as they may be in a part of a set that others write to.
        ids: whether samples may be ids, of words say, which nothing is computed with but by the model.

    Raises:
        BatchError: for other shapes or types, and for samples that are not finite.
        LabelError: for labels outside of the classes.
        DataError: for an empty set, and for one in which all labels are alike.
    """
    if not (ids and isinstance(x, Tensor) and x.dtype == torch.int64 and x.dim() >= 2):
        check_samples(x)
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != x.shape[:1]:
        got = f"{list(y.shape)} of {y.dtype}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise BatchError(f"y: got {got}, wanted int64 [{len(x)}], a label for each sample")
    if len(x) == 0:
        raise DataError("got no samples, wanted a training set")
    outside = ((y < 0) | (y >= classes)).nonzero().flatten()
    if len(outside):
        raise LabelError(
            f"got label {int(y[outside[0]])} at sample {int(outside[0])} ({len(outside)} such samples), wanted 0 to "
            f"{classes - 1}: leave these samples out"
        )
    if not alike and bool((y == y[0]).all()):
        raise DataError(f"got {len(y)} samples that are all of class {int(y[0])}, wanted at least two classes")


def check_samples(x: Tensor) -> None:
    """Refuses samples that no model could read.

    Args:
        x: samples [n, ...].

    Raises:
        BatchError: for other types than floating point and uint8, and for samples that are not finite.
    """
    if not isinstance(x, Tensor):
        raise BatchError(f"x: got a {type(x).__name__}, wanted a tensor of samples [n, ...]")
    if x.dim() < 2 or not (x.is_floating_point() or x.dtype == torch.uint8):
        raise BatchError(f"x: got {list(x.shape)} of {x.dtype}, wanted samples [n, ...], floating point or uint8")
    if not x.is_floating_point() or len(x) == 0:
        return
    low, high = torch.aminmax(x.detach().flatten(1), dim=1)  # NaN if any number is, without a mask of the samples' size
    broken = (~(low.isfinite() & high.isfinite())).nonzero().flatten()
    if len(broken):
        raise BatchError(
            f"x: got NaN or infinity in sample {int(broken[0])} ({len(broken)} such samples), wanted finite numbers: "
            "leave these samples out"
        )


def as_input(x: Tensor) -> Tensor:
    """Samples as a model reads them: bytes as float32 from 0 to 1, others as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x
