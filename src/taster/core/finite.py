"""Whether what a step computes with is finite: the batch, the loss, the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.guard import ScreenedBatch, T
from taster.core.host import to_host
from taster.core.param_vectors import finite_rows
from taster.core.verdict import COMMIT, Verdict, reject
from taster.core.view import View

_NOT_FINITE = "samples or labels hold NaN or infinity"


class BatchExtremes:
    """The least and the greatest number in each floating-point tensor of a batch, on the device.

    They are NaN if any number is: one pass over each tensor tells whether all are finite, without a mask of its size.

    Attributes:
        tensors: two of one element for each such tensor.
    """

    def __init__(self, batch: Batch) -> None:
        self.tensors: list[Tensor] = []
        self._masks: list[bool] = []
        for path, tensor in batch.tensors():
            if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 0:
                self.tensors += torch.aminmax(_real(tensor.detach()))
                self._masks.append(path not in ("x", "y"))

    def finite(self, numbers: Sequence[float]) -> bool:
        """Whether there is no NaN and no infinity in the batch, by the values of `tensors`. Beside other tensors one
        can be a mask, with minus infinity in it."""
        pairs = zip(numbers[::2], numbers[1::2], self._masks, strict=True)
        return all(
            math.isfinite(high) and (math.isfinite(low) or (mask and low == -math.inf)) for low, high, mask in pairs
        )


def finite_values(screened: ScreenedBatch[T], view: View) -> ScreenedBatch[T]:
    """The screen that every guard begins with: drops a batch as a whole, clients one by one."""
    batch = screened.batch
    if isinstance(batch, Batch):
        extremes = BatchExtremes(batch)
        return screened if extremes.finite(to_host(*extremes.tensors)) else without_samples(screened)
    usable = finite_rows(batch.values) & batch.weights.isfinite() if batch.usable is None else batch.usable
    return screened if all(to_host(usable)[0]) else screened.drop(~usable, batch.rejection)


def without_samples(screened: ScreenedBatch[T]) -> ScreenedBatch[T]:
    """What is left of a batch that is not finite: nothing."""
    dropped = screened.drop(torch.ones(len(screened.batch), dtype=torch.bool), _NOT_FINITE)
    return replace(dropped, stage=finite_values.__name__)


def check_finite(loss: float | None, norm: float | None) -> Verdict:
    """Refuses an update whose loss or gradient is not finite."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if value is not None and not math.isfinite(value):
            return reject(f"the {name} is {value}", "finite_values")
    return COMMIT


def _real(tensor: Tensor) -> Tensor:
    """A tensor that has a least and a greatest number."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no aminmax
