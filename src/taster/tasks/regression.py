"""Numbers: how much of their variation is explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from taster.core.types import Tensors
from taster.errors import LabelError, ModelError
from taster.tasks.base import row_mean


class Regression:
    """Numbers, [n, ...]: a sample counts by 1 − e² / s², where e is its error and s the standard deviation of the
    trusted targets. The mean over samples is R², so that a tolerance of one point is a hundredth of the variance.
    """

    name = "regression"
    words: ClassVar[Mapping[str, str]] = {"explained": "explained variance"}

    def __init__(self) -> None:
        self._scale: Tensor | None = None

    def prepare(self, y: Tensor, stage: str) -> None:
        """Targets must be real, and differ."""
        if y.is_complex():
            raise LabelError(f"{stage}: got complex targets, wanted real ones; metric_gate takes targets of any kind")
        scale = y.reshape(len(y), -1).double().var(0).mean()
        if not float(scale) > 0:
            raise LabelError(f"{stage}: got trusted targets that are all the same, wanted some that differ")
        self._scale = scale

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """There must be a number for each target."""
        if output.numel() != y.numel() or len(output) != len(y):
            raise ModelError(
                f"{stage}: got a model with outputs {list(output.shape)} for targets {list(y.shape)}, wanted as many "
                "numbers: compared as they are they would be broadcast against each other"
            )

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """The explained variance."""
        assert self._scale is not None, "prepare comes first"
        error = (output.double() - y.reshape(output.shape).double()).square()
        return {"explained": (1 - row_mean(error) / self._scale.to(error.device)).to(torch.float32)}

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Squared error."""
        return row_mean((output - y.reshape(output.shape)).square())

    def classes(self, _: Tensor) -> Tensor | None:
        """None: there are none."""
        return None
