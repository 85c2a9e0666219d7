"""Calling a user's loss: one checked scalar for training, one number a sample where samples are weighted."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from taster.errors import LabelError, LossError

Loss = Callable[[Tensor, Tensor], Tensor]
"""A loss of a model's output and the labels, as `torch.nn.functional.cross_entropy`."""


def check_labels(output: Tensor, y: Tensor, loss: Loss) -> None:
    """Refuses class labels that the output has no place for, before a GPU kernel trips over them.

    Looks only at outputs [n, classes, ...] with whole-number labels [n, ...]; `ignore_index` of the loss is allowed.

    Raises:
        LabelError: with the range of the labels and of the classes, or for whole numbers that are not int64.
    """
    if y.is_floating_point() or y.is_complex() or output.dim() != y.dim() + 1 or output.shape[2:] != y.shape[1:]:
        return
    if y.dtype != torch.int64:
        raise LabelError(f"got labels of {y.dtype}, wanted torch.int64: y.long()")
    ignored = getattr(loss, "ignore_index", None)
    labels = y if ignored is None else y[y != ignored]
    if labels.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(labels))
    classes = output.shape[1]
    if low < 0 or high >= classes:
        raise LabelError(f"got labels from {low} to {high}, wanted 0 to {classes - 1}: the model has {classes} outputs")


def scalar_loss(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    """The loss of a batch as one number.

    Raises:
        LossError: when the loss returns anything but one number connected to the model.
        LabelError: see `check_labels`.
    """
    check_labels(output, y, loss)
    value = _called(loss, output, y)
    if not isinstance(value, Tensor):
        raise LossError(f"the loss returned {type(value).__name__}, wanted a torch.Tensor with one number")
    if value.numel() != 1:
        raise LossError(
            f"the loss returned a tensor of shape {list(value.shape)}, wanted one number; reduce it (reduction='mean')"
        )
    if output.requires_grad and not value.requires_grad:
        raise LossError("the loss returned a number that is not connected to the model, so there is no gradient")
    return value.reshape(())


def sample_losses(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    """The loss of each sample, [n].

    Uses the loss's own `reduction` where it has one; any other loss is called on one sample at a time.

    Raises:
        LossError: when the loss returns no number for a single sample.
        LabelError: see `check_labels`.
    """
    check_labels(output, y, loss)
    values: Tensor | None = None
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        unreduced = copy.copy(loss)
        vars(unreduced)["reduction"] = "none"
        values = _called(unreduced, output, y)
    elif _takes_reduction(loss):
        values = _called(partial(loss, **{"reduction": "none"}), output, y)
    if values is None or values.shape[:1] != output.shape[:1]:
        return torch.stack([scalar_loss(loss, output[i : i + 1], y[i : i + 1]) for i in range(len(y))])
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def _called(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    try:
        return loss(output, y)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise LossError(
            f"the loss cannot take an output {list(output.shape)} and labels {list(y.shape)} of {y.dtype}: {error}"
        ) from error


def _takes_reduction(loss: Loss) -> bool:
    try:
        return "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False
