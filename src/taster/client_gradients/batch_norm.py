"""Batch-norm statistics that clients send beside their updates when a round is normalized as one batch.

A client's statistics are one vector [s]: for each batch norm that tracks statistics, in the order of `named_modules`,
the mean [c] and the (uncorrected) variance [c] of the client's own values, and how many values a channel has, [1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from taster.client_gradients.grad_sample_rules import per_client
from taster.core.types import Tensors
from taster.errors import ModelError


def tracked_batch_norms(layers: Iterable[tuple[str, nn.Module]]) -> dict[str, _BatchNorm]:
    """The batch norms that have running statistics, by name, from `named_modules()` or the like."""
    return {name: layer for name, layer in layers if isinstance(layer, _BatchNorm) and layer.running_mean is not None}


def statistics_layout(layers: Iterable[tuple[str, nn.Module]]) -> tuple[Tensor, Tensor]:
    """Which numbers of a vector of statistics are variances, and which are counts; boolean masks [s]."""
    widths = [layer.num_features for layer in tracked_batch_norms(layers).values()]
    kinds = torch.tensor([kind for c in widths for kind in (*[0] * c, *[1] * c, 2)], dtype=torch.int64)
    return kinds == 1, kinds == 2


def client_statistics(x: Tensor, counts: Sequence[int]) -> Tensor:
    """The statistics of each client's part of a batch norm's input x [n, c, ...], [m, 2 c + 1]."""
    places = x[0, 0].numel()
    values = x.reshape(len(x), x.shape[1], -1)
    numbers = torch.tensor([count * places for count in counts], device=x.device, dtype=x.dtype)[:, None]
    means = per_client(values.sum(2), counts) / numbers
    at = means.repeat_interleave(torch.tensor(counts, device=x.device), dim=0)[:, :, None]
    return torch.cat([means, per_client((values - at).square().sum(2), counts) / numbers, numbers], 1)


def join_statistics(found: Mapping[str, Tensor], layers: Iterable[tuple[str, nn.Module]]) -> Tensor | None:
    """Statistics by name of the layer as one matrix [m, s]; None for a model without tracked batch norms.

    Raises:
        ModelError: for a batch norm that the forward pass did not call.
    """
    names = list(tracked_batch_norms(layers))
    missing = [name for name in names if name not in found]
    if missing:
        raise ModelError(
            f"got no values for the batch norm {', '.join(missing)}, which the forward pass did not call; wanted each "
            "called once, or recorded statistics"
        )
    return torch.cat([found[name] for name in names], 1) if names else None


def merge_statistics(buffers: Tensors, layers: Mapping[str, nn.Module], statistics: Tensor) -> Tensors:
    """A model's buffers after a round with these statistics: what batch norm records of all samples as one batch.

    Args:
        buffers: before the round, by name.
        layers: of the model, by name.
        statistics: [m, s], a row for each client.
    """
    found = dict(buffers)
    start = 0
    for name, layer in tracked_batch_norms(layers.items()).items():
        sizes = [layer.num_features, layer.num_features, 1]
        means, variances, numbers = torch.split(statistics[:, start : start + sum(sizes)], sizes, dim=1)
        start += sum(sizes)
        total = numbers.sum()
        shares = (numbers / total).squeeze(1)
        mean = shares @ means
        # The variance of all is the mean of those within and that between; torch records it corrected for the count.
        variance = shares @ (variances + (means - mean).square()) * (total / (total - 1).clamp_min(1))
        prefix = f"{name}." if name else ""
        count = buffers[prefix + "num_batches_tracked"] + 1
        momentum = 1 / float(count) if layer.momentum is None else layer.momentum
        for key, value in (("running_mean", mean), ("running_var", variance)):
            found[prefix + key] = torch.lerp(buffers[prefix + key], value.to(buffers[prefix + key].dtype), momentum)
        found[prefix + "num_batches_tracked"] = count
    return found
