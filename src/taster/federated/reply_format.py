"""What the server asks of each client of a round: sizes and kinds of numbers, all from the server's own model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from taster.client_gradients import statistics_layout
from taster.core.param_vectors import flatten, floating_buffers, trainable_parameters
from taster.core.types import Tensors
from taster.errors import BatchError, ModelError

SideData = Literal["statistics", "buffers"]
"""What clients may be asked for beside their updates: batch-norm statistics of their samples (see
`taster.client_gradients`), or the floating-point buffers of their model after training."""


@dataclass(frozen=True, eq=False)
class VectorFormat:
    """The vector that is wanted of each client under one name.

    Attributes:
        name: "update", "statistics" or "buffers".
        size: how many numbers.
        dtype, device: of the server's copy.
        variances: [size], numbers that cannot be negative; None for none.
        counts: [size], numbers of values, which are positive; None for none.
    """

    name: str
    size: int
    dtype: torch.dtype
    device: torch.device
    variances: Tensor | None = None
    counts: Tensor | None = None

    @property
    def limit(self) -> float:
        """The greatest norm of an update, or size of another number, with which means, medians and norms over clients
        stay within the range of the dtype."""
        wide = torch.finfo(torch.float64 if self.dtype == torch.float64 else torch.float32).max
        return float(min(torch.finfo(self.dtype).max / 4, 1e-3 * wide**0.5))


@dataclass(frozen=True, eq=False)
class ReplyFormat:
    """What each client of a round is asked for.

    Attributes:
        update: its update.
        side: what is wanted beside it; None for nothing.
    """

    update: VectorFormat
    side: VectorFormat | None = None

    @classmethod
    def of(cls, model: nn.Module, side_data: SideData | None = None) -> ReplyFormat:
        """The format for a model.

        Raises:
            ModelError: for a model without trainable parameters.
            BatchError: for an unknown `side_data`.
        """
        params = list(trainable_parameters(model).values())
        if not params:
            raise ModelError("got a model without trainable parameters, wanted at least one for clients to update")
        dtype, device = params[0].dtype, params[0].device
        update = VectorFormat("update", sum(p.numel() for p in params), dtype, device)
        if side_data is None:
            return cls(update)
        if side_data not in get_args(SideData):
            raise BatchError(f"side_data: got {side_data!r}, wanted one of {', '.join(get_args(SideData))}, or None")
        if side_data == "statistics":
            variances, counts = (mask.to(device) for mask in statistics_layout(model.named_modules()))
            return cls(update, VectorFormat("statistics", len(variances), dtype, device, variances, counts))
        buffers = averaged_buffers(model)
        if not buffers:
            return cls(update, VectorFormat("buffers", 0, dtype, device))
        variances = torch.cat([torch.full((b.numel(),), name in _variances(model)) for name, b in buffers.items()])
        values = flatten(buffers)
        return cls(update, VectorFormat("buffers", len(values), values.dtype, values.device, variances.to(device)))


def averaged_buffers(model: nn.Module) -> Tensors:
    """The buffers that clients' values replace, by name: of floating-point numbers, all finite, each with memory of its
    own. Counters stay the server's, and so do masks that hold infinity and expanded buffers."""
    return {name: b for name, b in floating_buffers(model).items() if b.is_contiguous() and bool(b.isfinite().all())}


def _variances(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers() if name.rpartition(".")[2] == "running_var"}
