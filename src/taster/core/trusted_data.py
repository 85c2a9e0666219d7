"""Checks of trusted data: what the samples show by themselves, and what they show on the model they are to judge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from taster.core.batch import Batch
from taster.core.joining import joined_batches
from taster.core.nested import is_label, tensors_in
from taster.core.view import View, predictions
from taster.errors import BatchError, LabelError, ModelError, TasterError


def as_trusted_data(probe: Any, stage: str, *, min_samples: int = 1) -> Batch:
    """Trusted samples as one checked batch.

    Args:
        probe: a `Batch`; a `torch.utils.data.Dataset`, which is read whole; or a `DataLoader`, whose batches are put
            together (`taster.core.joining.joined_batches`).
        stage: name of the stage, for the messages.
        min_samples: how many samples the stage needs.

    Raises:
        BatchError: for anything else; see also `check_trusted_data`.
    """
    if isinstance(probe, Dataset):
        probe = DataLoader(probe, batch_size=256)
    if isinstance(probe, DataLoader):
        parts = [_loaded(item, stage) for item in probe]
        if not parts:
            raise BatchError(f"{stage}: got trusted data without samples, wanted {min_samples} or more")
        probe = joined_batches(parts, stage)
    return check_trusted_data(probe, stage, min_samples=min_samples)


def _loaded(item: Any, stage: str) -> Batch:
    if isinstance(item, Batch):
        return item
    if isinstance(item, (list, tuple)) and len(item) == 2 and not hasattr(item, "_fields"):
        return Batch(item[0], item[1])
    if isinstance(item, Tensor):
        raise BatchError(f"{stage}: got a data set of tensors without labels, wanted one of (x, y) or of dictionaries")
    return Batch(item)


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
            f"{stage}: got a {type(data).__name__} as trusted data, wanted a taster.Batch(x, y), a torch Dataset or a "
            "DataLoader (which a list of samples goes into)"
        )
    if len(data) < min_samples:
        raise BatchError(f"{stage}: got {len(data)} trusted samples, wanted {min_samples} or more")
    tensors = dict(data.tensors())
    devices = sorted({str(tensor.device) for tensor in tensors.values()})
    if len(devices) > 1:
        raise BatchError(f"{stage}: got trusted samples and labels on {' and '.join(devices)}, wanted one device")
    for path, values in tensors.items():
        bad = nonfinite_rows(values if values.dim() else values[None])
        if bad and (path in ("x", "y") or not _is_mask(values)):
            part = {"x": "samples", "y": "labels"}.get(path, path)
            raise BatchError(
                f"{stage}: got NaN or infinity in {len(bad)} of {len(values) if values.dim() else 1} trusted {part} "
                f"(the first has index {bad[0]}), wanted finite numbers"
            )
    if classes:
        if not isinstance(data.y, Tensor):
            raise LabelError(f"{stage}: got trusted data without a tensor of labels, wanted Batch(x, y)")
        class_indices(data.y, stage)
    return data


def _is_mask(values: Tensor) -> bool:
    """Whether what is not finite is minus infinity, as in masks that are added to attention scores."""
    return bool((values.isfinite() | (values == -torch.inf)).all())


def check_trusted_range(data: Batch, view: View, stage: str) -> None:
    """Raises BatchError for trusted samples outside the learner's `input_range`."""
    if view.input_range is None:
        return
    low, high = view.input_range
    samples = [tensor for path, tensor in tensors_in(data.x, "x") if not is_label(path)]
    floating = [tensor for tensor in samples if tensor.is_floating_point()]
    if not floating:
        raise BatchError(
            f"{stage}: got trusted samples of {next((t.dtype for t in samples), None)}, wanted floating point in "
            f"{[low, high]}, the learner's input_range: divide images of whole numbers by 255"
        )
    bounds = [torch.aminmax(tensor.detach()) for tensor in floating]
    least, greatest = min(float(b.min) for b in bounds), max(float(b.max) for b in bounds)
    if least < low or greatest > high:
        raise BatchError(
            f"{stage}: got trusted samples from {least:g} to {greatest:g}, wanted {[low, high]}, the learner's "
            "input_range: scale them as the training batches, or give Learner(input_range=...) the range of both"
        )


def trusted_output(data: Batch, view: View, stage: str) -> Any:
    """The model's output on trusted samples, all at once.

    Raises:
        BatchError: when the model cannot take the samples (shape, dtype, device).
    """
    try:
        return view.forward(data)
    except (TasterError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        shapes = ", ".join(f"{list(t.shape)} of {t.dtype} on {t.device}" for _, t in tensors_in(data.x))
        raise BatchError(
            f"{stage}: the model cannot take the trusted samples, {shapes}; wanted samples like the training batches': "
            f"{error}"
        ) from error


def trusted_outputs(data: Batch, view: View, stage: str, *, classes: bool = False, chunk: int = 1000) -> Tensor:
    """The model's predictions on trusted samples, [n, ...], in chunks and without a graph.

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
    with torch.no_grad():
        outputs = torch.cat(
            [
                predictions(trusted_output(data.select(slice(i, i + chunk)), view, stage))
                for i in range(0, len(data), chunk)
            ]
        )
    if classes:
        fits = outputs.dim() == data.y.dim() + 1 and outputs.shape[2:] == data.y.shape[1:]
        check_logits(outputs, data.y, outputs.shape[1] if outputs.dim() > 1 else 0, stage, fits=fits)
    return outputs


def check_trusted_losses(data: Batch, view: View, stage: str) -> None:
    """Checks that the learner's loss takes the trusted data and is finite on it.

    Raises:
        BatchError: when the model cannot take the samples, or the loss is NaN or infinite on one of them.
        LabelError, LossError: when the loss cannot take the labels.
    """
    trusted_output(data.select(slice(2)), view, stage)
    with torch.no_grad():
        bad = nonfinite_rows(view.sample_losses(data))
    if bad:
        raise BatchError(
            f"{stage}: the loss is NaN or infinite on {len(bad)} of {len(data)} trusted samples (the first has index "
            f"{bad[0]}), wanted a model and a loss that are finite on all of them"
        )


def class_indices(y: Tensor, stage: str, *, ignored: bool = False) -> None:
    """Checks that labels are class indices.

    Args:
        y: labels.
        stage: for messages.
        ignored: whether negative ones are allowed, for places that count for nothing.

    Raises:
        LabelError: otherwise.
    """
    if y.is_floating_point() or y.is_complex():
        raise LabelError(
            f"{stage}: got trusted labels {list(y.shape)} of {y.dtype}, wanted class indices of torch.int64: "
            "y.argmax(1) for soft or one-hot labels, y.long() for indices; metric_gate takes labels of any kind"
        )
    if y.dtype != torch.int64:
        raise LabelError(f"{stage}: got trusted labels of {y.dtype}, wanted class indices of torch.int64: y.long()")
    if y.numel() == 0:
        raise LabelError(f"{stage}: got trusted labels of shape {list(y.shape)}, wanted at least one for each sample")
    if int(y.min()) < 0 and not ignored:
        raise LabelError(
            f"{stage}: got a trusted label of {int(y.min())}, wanted class indices from 0 "
            "(places that are ignored belong to tokens and pixels)"
        )


def check_logits(output: Tensor, y: Tensor, classes: int, stage: str, *, fits: bool) -> None:
    """Checks that outputs have a place for every label.

    Args:
        output: predictions.
        y: class indices; negative ones count for nothing.
        classes: how many the output has.
        stage: for messages.
        fits: whether their shapes belong together.

    Raises:
        ModelError: for outputs of another shape, or of a single class.
        LabelError: for labels beyond the classes.
    """
    if not fits or classes < 2:
        raise ModelError(
            f"{stage}: got a model with outputs {list(output.shape)} for labels {list(y.shape)}, wanted one output "
            "per class, two or more; metric_gate judges models of any kind"
        )
    highest = int(y.max())
    if highest >= classes:
        raise LabelError(
            f"{stage}: got trusted labels up to {highest}, wanted 0 to {classes - 1}: the model has {classes} outputs"
        )


def nonfinite_rows(values: Tensor) -> list[int]:
    """Indices of the rows of [n, ...] that hold NaN or infinity."""
    if not (values.is_floating_point() or values.is_complex()):
        return []
    found: list[int] = (~values.detach().reshape(len(values), -1).isfinite().all(1)).nonzero().flatten().tolist()
    return found
