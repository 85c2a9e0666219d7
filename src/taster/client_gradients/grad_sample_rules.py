"""The gradient of a layer's parameters for each client by itself, from its input and the gradient at its output.

A forward and a backward pass over all clients' samples at once gives both. What is left is one product a client, which
goes straight to its row of the matrix of updates.

Source: the outer products are those of Goodfellow 2015 ("Efficient per-example gradient computations"), for
    convolutions over unfolded patches as in Rochette et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.modules.batchnorm import _BatchNorm

Rows = dict[str, Tensor]
"""Views [m, *shape] into the matrix of updates, by a layer's own name of the parameter."""

GradientWriter = Callable[[Tensor], None]
"""Takes the gradient at a layer's output and writes the rows."""

_SMALL = 2**16
"""Numbers in a weight up to which several samples' products are made in one call."""

_TOGETHER = 25
"""Samples that are unfolded at a time."""


def has_rule(layer: nn.Module) -> bool:
    """Whether `gradient_writer` knows this layer: exactly these types, as a subclass may compute something else."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def gradient_writer(layer: nn.Module, x: Tensor, counts: Sequence[int], rows: Rows) -> GradientWriter:
    """The function that turns the gradient at the output of a layer with input x [n, ...] into rows of the matrix.

    Args:
        layer: one that `has_rule`, with its parameters and buffers in place; they are read now.
        x: its input, the samples of client after client.
        counts: samples of each client.
        rows: receive the gradients of its parameters.
    """
    if isinstance(layer, nn.Linear):
        return _linear(x, counts, rows)
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, x, counts, rows)
    return _normalization(_normalized(layer, x), x, counts, rows, channels_last=isinstance(layer, nn.LayerNorm))


def per_client(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Sums over each client's samples, [n, ...] to [m, ...]."""
    if len(set(counts)) == 1:
        return values if counts[0] == 1 else values.reshape(len(counts), counts[0], *values.shape[1:]).sum(1)
    return torch.stack([part.sum(0) for part in torch.split(values, list(counts))])


def _linear(x: Tensor, counts: Sequence[int], rows: Rows) -> GradientWriter:
    def write(gradient: Tensor) -> None:
        if "bias" in rows:
            rows["bias"].copy_(per_client(gradient.reshape(len(gradient), -1, gradient.shape[-1]).sum(1), counts))
        if "weight" in rows and len(counts) == len(x) and x.dim() == 2:  # a sample each: outer products in one call
            torch.mul(gradient[:, :, None], x[:, None], out=rows["weight"])
        elif "weight" in rows:
            pairs = zip(torch.split(gradient, list(counts)), torch.split(x, list(counts)), rows["weight"], strict=True)
            for own, inputs, row in pairs:
                torch.mm(own.reshape(-1, own.shape[-1]).t(), inputs.reshape(-1, inputs.shape[-1]), out=row)

    return write


def _convolution(layer: nn.Conv2d, x: Tensor, counts: Sequence[int], rows: Rows) -> GradientWriter:
    padding = layer.padding
    assert not isinstance(padding, str)

    def unfolded(part: Tensor) -> Tensor:
        return fn.unfold(part, layer.kernel_size, layer.dilation, padding, layer.stride)

    def write(gradient: Tensor) -> None:
        gradient = gradient.flatten(2)
        if "bias" in rows:
            rows["bias"].copy_(per_client(gradient.sum(2), counts))
        if "weight" not in rows:
            return
        shape = rows["weight"].shape
        if shape[1:].numel() <= _SMALL:
            made = [
                torch.bmm(some, unfolded(part).transpose(1, 2))
                for some, part in zip(torch.split(gradient, _TOGETHER), torch.split(x, _TOGETHER), strict=True)
            ]
            rows["weight"].copy_(per_client(torch.cat(made), counts).reshape(shape))
            return
        start = 0
        for row, count in zip(rows["weight"].flatten(2), counts, strict=True):
            for i in range(start, start + count):
                patches = unfolded(x[i : i + 1])[0]
                if i == start:
                    torch.mm(gradient[i], patches.t(), out=row)
                else:
                    row.addmm_(gradient[i], patches.t())
            start += count

    return write


def _normalized(layer: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """What the layer scales and shifts; computed when asked for, with the statistics of now."""
    if isinstance(layer, _BatchNorm):
        if layer.training or layer.running_mean is None:
            return lambda: fn.batch_norm(x, None, None, training=True, eps=layer.eps)
        mean, variance = layer.running_mean, layer.running_var
        return lambda: fn.batch_norm(x, mean, variance, eps=layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return lambda: fn.group_norm(x, layer.num_groups, eps=layer.eps)
    assert isinstance(layer, nn.LayerNorm)
    return lambda: fn.layer_norm(x, layer.normalized_shape, eps=layer.eps)


def _normalization(
    normalized: Callable[[], Tensor], x: Tensor, counts: Sequence[int], rows: Rows, *, channels_last: bool
) -> GradientWriter:
    def write(gradient: Tensor) -> None:
        for name in rows:
            values = gradient * normalized() if name == "weight" else gradient
            rows[name].copy_(per_client(_over_places(values, rows[name].dim() - 1, channels_last), counts))

    return write


def _over_places(values: Tensor, dimensions: int, channels_last: bool) -> Tensor:
    """Sums over all dimensions that share a parameter, except samples."""
    if channels_last:
        between = list(range(1, values.dim() - dimensions))
        return values.sum(between) if between else values
    return values.flatten(2).sum(2) if values.dim() > 2 else values
