"""Checks of trusted data: what the samples show by themselves, and what they show on the model they are to judge."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.core.types import Batch
from taster.core.view import View
from taster.errors import BatchError, LabelError, ModelError, TasterError


def check_trusted_data(data: Batch, stage: str, *, classes: bool = False, min_samples: int = 1) -> Batch:
    """Checks trusted samples and labels by themselves, before a stage takes them.

    Args:
        data: the trusted samples.
        stage: name of the stage, for the messages.
        classes: whether labels must be class indices.
        min_samples: how many samples the stage needs.

    Returns:
        the same data.

    Raises:
        BatchError: for anything but a `Batch`, for too few samples, for samples and labels on different devices, and
            for NaN or infinity in either.
        LabelError: for labels that are not class indices (soft labels, other dtypes, negative numbers), where they must
            be.
    """
    if not isinstance(data, Batch):
        raise BatchError(
            f"{stage}: got {type(data).__name__} as trusted data, wanted a taster.Batch of samples and labels"
        )
    if len(data) < min_samples:
        raise BatchError(f"{stage}: got {len(data)} trusted samples, wanted {min_samples} or more")
    if data.x.device != data.y.device:
        raise BatchError(
            f"{stage}: got trusted samples on {data.x.device} and their labels on {data.y.device}, wanted one device"
        )
    for part, values in (("samples", data.x), ("labels", data.y)):
        bad = nonfinite_rows(values)
        if bad:
            raise BatchError(
                f"{stage}: got NaN or infinity in {len(bad)} of {len(data)} trusted {part} (the first has index "
                f"{bad[0]}), wanted finite numbers"
            )
    if classes:
        _check_class_labels(data.y, stage)
    return data


def check_trusted_range(data: Batch, view: View, stage: str) -> None:
    """Raises BatchError for trusted samples outside the learner's `input_range`."""
    if view.input_range is None:
        return
    low, high = view.input_range
    if not data.x.is_floating_point():
        raise BatchError(
            f"{stage}: got trusted samples of {data.x.dtype}, wanted floating point in {[low, high]}, the learner's "
            "input_range: divide images of whole numbers by 255"
        )
    least, greatest = (float(value) for value in torch.aminmax(data.x.detach()))
    if least < low or greatest > high:
        raise BatchError(
            f"{stage}: got trusted samples from {least:g} to {greatest:g}, wanted {[low, high]}, the learner's "
            "input_range: scale them as the training batches, or give Learner(input_range=...) the range of both"
        )


def trusted_outputs(data: Batch, view: View, stage: str, *, classes: bool = False, chunk: int = 1000) -> Tensor:
    """The model's outputs on trusted samples, [n, ...], without a graph.

    Args:
        data: the trusted samples.
        view: of the model.
        stage: name of the stage, for the messages.
        classes: whether the outputs must be logits [n, classes, ...] with a place for every label.
        chunk: samples per forward pass.

    Raises:
        BatchError: when the model cannot take the samples (shape, dtype, device).
        ModelError: when outputs must be logits and are not.
        LabelError: for a label without an output.
    """
    try:
        outputs = view.outputs(data.x, chunk=chunk)
    except (TasterError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        raise BatchError(
            f"{stage}: the model cannot take the trusted samples, {list(data.x.shape)} of {data.x.dtype} on "
            f"{data.x.device}; wanted samples like the training batches': {error}"
        ) from error
    if classes:
        check_logits(outputs, data.y, stage)
    return outputs


def check_trusted_losses(data: Batch, view: View, stage: str) -> None:
    """Checks that the learner's loss takes the trusted data and is finite on it.

    Raises:
        BatchError: when the model cannot take the samples, or the loss is NaN or infinite on one of them.
        LabelError, LossError: when the loss cannot take the labels.
    """
    bad = nonfinite_rows(view.losses(trusted_outputs(data, view, stage), data.y))
    if bad:
        raise BatchError(
            f"{stage}: the loss is NaN or infinite on {len(bad)} of {len(data)} trusted samples (the first has index "
            f"{bad[0]}), wanted a model and a loss that are finite on all of them"
        )


def check_logits(outputs: Tensor, y: Tensor, stage: str) -> None:
    """Checks that outputs are logits [n, classes, ...] with a place for every label of y [n, ...].

    Raises:
        ModelError: for outputs of another shape, or of a single class.
        LabelError: for labels beyond the classes.
    """
    wanted = y.dim() + 1
    if outputs.dim() != wanted or outputs.shape[2:] != y.shape[1:] or outputs.shape[1] < 2:
        raise ModelError(
            f"{stage}: got a model with outputs {list(outputs.shape)} for labels {list(y.shape)}, wanted one output "
            "per class, two or more; metric_gate judges models of any kind"
        )
    highest = int(y.max())
    if highest >= outputs.shape[1]:
        raise LabelError(
            f"{stage}: got trusted labels up to {highest}, wanted 0 to {outputs.shape[1] - 1}: the model has "
            f"{outputs.shape[1]} outputs"
        )


def nonfinite_rows(values: Tensor) -> list[int]:
    """Indices of the rows of [n, ...] that hold NaN or infinity."""
    if not (values.is_floating_point() or values.is_complex()):
        return []
    found: list[int] = (~values.detach().reshape(len(values), -1).isfinite().all(1)).nonzero().flatten().tolist()
    return found


def _check_class_labels(y: Tensor, stage: str) -> None:
    if y.is_floating_point() or y.is_complex():
        raise LabelError(
            f"{stage}: got trusted labels {list(y.shape)} of {y.dtype}, wanted class indices of torch.int64: "
            "y.argmax(1) for soft or one-hot labels, y.long() for indices; metric_gate takes labels of any kind"
        )
    if y.dtype != torch.int64:
        raise LabelError(f"{stage}: got trusted labels of {y.dtype}, wanted class indices of torch.int64: y.long()")
    if y.numel() == 0:
        raise LabelError(f"{stage}: got trusted labels of shape {list(y.shape)}, wanted at least one for each sample")
    if int(y.min()) < 0:
        raise LabelError(f"{stage}: got a trusted label of {int(y.min())}, wanted class indices from 0")
