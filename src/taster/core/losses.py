"""Calling a user's loss: one checked scalar for training, one number a sample where samples are weighted."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from taster.core.host import Readings, to_host
from taster.core.nested import tensors_in
from taster.errors import LabelError, LossError

Loss = Callable[[Tensor, Tensor], Tensor]
"""A loss of a model's output and the labels, as `torch.nn.functional.cross_entropy`."""

AnyLoss = Callable[[Any, Any], Tensor]
"""A loss of a model's output, nested too, and the labels, or the whole batch."""

_CLASS_LOSSES = (functional.cross_entropy, functional.nll_loss, nn.CrossEntropyLoss, nn.NLLLoss)
"""Losses whose whole-number labels are classes, one output each, and which skip `ignore_index`."""

_NUMBER_LOSSES = (
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
)
"""Losses that compare numbers one by one, and broadcast those of unequal shapes against each other."""

_CHECKED: MutableMapping[Tensor, tuple[int, int, int]] = WeakIdKeyDictionary()
"""Labels that were found to be classes: their version then, the number of classes, and the label that is ignored."""

_OFF_SCALE = 1e-4
"""Relative difference between a loss and the mean over its samples from which samples are rescaled."""


@dataclass(frozen=True)
class KnownLabels:
    """What is known of labels that were checked once, so that nothing has to be looked at again.

    Attributes:
        all_count: whether a loss of classes ignores none of them.
    """

    all_count: bool


def known_labels(output: Tensor, y: Tensor, loss: AnyLoss) -> KnownLabels:
    """Checks labels as `check_labels` does, and remembers what later losses need of them: for labels that stay the
    same, as those of trusted samples do, and any part of them.

    Args:
        output, y, loss: what belongs together; of the output only the shape counts.

    Raises:
        LabelError: see `check_labels`.
    """
    check_labels(output, y, loss)
    if not takes_classes(loss) or y.is_floating_point() or y.is_complex():
        return KnownLabels(all_count=False)
    (ignored,) = to_host((y == _options(loss)["ignore_index"]).any())
    return KnownLabels(all_count=not ignored)


def check_labels(output: Tensor, y: Tensor, loss: AnyLoss, readings: Readings | None = None) -> Tensor:
    """Refuses class labels that the output has no place for, before a GPU kernel trips over them, and numbers of
    another shape than the output, which would be broadcast: [n] against [n, 1] is a loss of n² differences.

    Of classes it looks only at cross-entropy and negative log-likelihood, as functions, modules or partials of these,
    at outputs [n, classes, ...] and at whole-number labels [n, ...]. Labels equal to the loss's `ignore_index` are
    allowed.

    Args:
        output, y, loss: what belongs together.
        readings: where the values of the labels are to be looked at later, with other numbers; None looks at once.

    Returns:
        the labels for the loss: those given, or, where they are looked at later, with 0 in the place of labels that
        will be refused.

    Raises:
        LabelError: with the range of the labels and of the classes, for whole numbers that are not int64, and for
            numbers of another shape.
    """
    if takes_numbers(loss) and output.shape != y.shape:
        raise LabelError(
            f"got outputs {list(output.shape)} and labels {list(y.shape)}, which the loss would broadcast against each "
            "other; wanted the same shape of both: y[:, None] or output.squeeze(1)"
        )
    if not takes_classes(loss) or y.is_floating_point() or y.is_complex():
        return y
    if output.dim() != y.dim() + 1 or output.shape[2:] != y.shape[1:]:
        return y
    if y.dtype != torch.int64:
        raise LabelError(f"got labels of {y.dtype}, wanted torch.int64: y.long()")
    ignored, classes = _options(loss)["ignore_index"], output.shape[1]
    if readings is None and _was_checked(y, classes, ignored):
        return y
    unknown = (y.clamp(0, classes - 1) != y) & (y != ignored)

    def refuse(found: list[bool]) -> None:
        if found[0]:
            low, high = to_host(*torch.aminmax(y[y != ignored]))
            raise LabelError(
                f"got labels from {low} to {high}, wanted 0 to {classes - 1} (or {ignored}, which is ignored): the "
                f"model has {classes} outputs"
            )

    if readings is None:
        refuse(to_host(unknown.any()))
        _remember_checked(y, classes, ignored)
        return y
    readings.add([unknown.any()], refuse)
    return y.masked_fill(unknown, 0)


def _was_checked(y: Tensor, classes: int, ignored: int) -> bool:
    """Whether the values of these labels were looked at before and are the same tensor's still: an attacker or a
    correction comes back with the labels of a batch at each of its steps, and would wait for them each time."""
    return not y.is_inference() and _CHECKED.get(y) == (y._version, classes, ignored)


def _remember_checked(y: Tensor, classes: int, ignored: int) -> None:
    if type(y) is Tensor and not y.is_inference() and not is_functorch_wrapped_tensor(y):
        _CHECKED[y] = y._version, classes, ignored


def takes_classes(loss: AnyLoss) -> bool:
    """Whether the labels of a loss are known to be classes with one output each."""
    function = function_of(loss)
    return any(function is known or type(function) is known for known in _CLASS_LOSSES)


def takes_numbers(loss: AnyLoss | None) -> bool:
    """Whether a loss is known to compare numbers one by one."""
    function = function_of(loss)
    return any(function is known or type(function) is known for known in _NUMBER_LOSSES)


def scalar_loss(loss: AnyLoss, output: Any, y: Any, readings: Readings | None = None) -> Tensor:
    """The loss of a batch as one number.

    Args:
        loss, output, y: as for `check_labels`, or nested.
        readings: as for `check_labels`.

    Raises:
        LossError: when the loss returns anything but one number connected to the model.
        LabelError: see `check_labels`.
    """
    if isinstance(output, Tensor) and isinstance(y, Tensor):
        y = check_labels(output, y, loss, readings)
    value = _called(loss, output, y)
    if not isinstance(value, Tensor):
        raise LossError(f"the loss returned {type(value).__name__}, wanted a torch.Tensor with one number")
    if value.numel() != 1:
        raise LossError(
            f"the loss returned a tensor of shape {list(value.shape)}, wanted one number; reduce it (reduction='mean')"
        )
    if not value.requires_grad and any(tensor.requires_grad for _, tensor in tensors_in(output)):
        raise LossError("the loss returned a number that is not connected to the model, so there is no gradient")
    return value.reshape(())


def sample_losses(
    loss: AnyLoss,
    output: Tensor,
    y: Tensor,
    readings: Readings | None = None,
    known: KnownLabels | None = None,
) -> Tensor:
    """The loss of each sample, [n], on the scale of the scalar loss: their mean is the loss of the batch.

    Uses the loss's own `reduction` where it has one; any other loss is called on one sample at a time. Class weights,
    ignored labels and the reductions "sum" and "batchmean" are taken into account. A loss that compares samples with
    each other, as contrastive ones do, is taken whole: each sample has the loss of the batch.

    Args:
        loss, output, y, readings: as for `check_labels`.
        known: what `known_labels` found; None looks at the labels.

    Raises:
        LossError: when the loss returns no number for a single sample.
        LabelError: see `check_labels`.
    """
    if known is None:
        y = check_labels(output, y, loss, readings)
    values = _unreduced(loss, output, y)
    if values is None or values.shape[:1] != output.shape[:1]:
        whole = scalar_loss(loss, output, y)
        try:
            values = torch.stack([scalar_loss(loss, output[i : i + 1], y[i : i + 1]) for i in range(len(y))])
        except LossError:  # of a sample by itself it cannot be asked at all
            return whole.expand(len(y))
        if _is_none_of_samples(values.detach(), whole.detach()):
            return whole.expand(len(y))
        return values * _factor(whole.detach(), values.detach().mean())
    if not is_loss_of_torch(loss):  # whatever its reduction means, the batch's loss is what counts
        values = values.reshape(len(values), -1).mean(1)
        return values * _factor(_called(loss, output, y).detach(), values.detach().mean())
    reduction = _options(loss).get("reduction", "mean")
    places = values.reshape(len(values), -1)
    if reduction == "batchmean":
        return places.sum(1)
    if reduction == "sum":
        return places.sum(1) * len(values)
    counts = known is not None and known.all_count and _options(loss).get("weight") is None
    if takes_classes(loss) and not y.is_floating_point() and not counts:
        return places.sum(1) * (len(values) / _weight_total(loss, output, y))
    return places.mean(1) if values.dim() > 1 else values


def _unreduced(loss: AnyLoss, output: Tensor, y: Tensor) -> Tensor | None:
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        unreduced = copy.copy(loss)
        vars(unreduced)["reduction"] = "none"
        return _called(unreduced, output, y)
    if _takes_reduction(loss):
        return _called(partial(loss, **{"reduction": "none"}), output, y)
    return None


def _weight_total(loss: AnyLoss, output: Tensor, y: Tensor) -> Tensor:
    """What a mean over weighted classes divides by, []: without weights the number of labels that count."""
    options = _options(loss)
    counted = torch.ne(y, options["ignore_index"])
    weight = options.get("weight")
    if weight is None:  # in half precision counts are no whole numbers
        return counted.sum(dtype=torch.promote_types(output.dtype, torch.float32))
    weights = torch.as_tensor(weight, device=output.device, dtype=output.dtype)
    return torch.sum(weights[y.masked_fill(~counted, 0)] * counted)


def _factor(scalar: Tensor, mean: Tensor) -> Tensor:
    """What brings samples to the scale of the batch's loss, []; exactly 1 where they are on it."""
    scalar = scalar.reshape(())
    usable = mean.isfinite() & scalar.isfinite() & (mean != 0)
    off = (scalar - mean).abs() > _OFF_SCALE * mean.abs()
    return torch.where(usable & off, scalar / mean, torch.ones_like(mean))


def _is_none_of_samples(values: Tensor, whole: Tensor) -> bool:
    """Whether a loss compares samples with each other, so that one by itself has none."""
    mean = values.mean()
    return bool(whole.isfinite() & (whole != 0) & (~mean.isfinite() | (values == 0).all()))


def function_of(loss: AnyLoss | None) -> Any:
    """The function or module of a loss, without what a partial adds."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss


def is_loss_of_torch(loss: AnyLoss) -> bool:
    """Whether it is one of torch's own losses, which take one tensor of predictions."""
    function = function_of(loss)
    owner = type(function) if isinstance(function, nn.Module) else function
    return str(getattr(owner, "__module__", "")).startswith("torch.nn.")


def _options(loss: AnyLoss) -> Mapping[str, Any]:
    """The options of a loss by name: attributes of a module, arguments of a function, its defaults included."""
    if isinstance(loss, nn.Module):
        names = ("reduction", "ignore_index", "weight")
        return {name: getattr(loss, name) for name in names if hasattr(loss, name)}
    try:
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(loss).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
    except (TypeError, ValueError):  # some callables written in C have no signature
        return {}
    return defaults


def _called(loss: AnyLoss, output: Any, y: Any) -> Tensor:
    try:
        return loss(output, y)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        dtype = f" of {y.dtype}" if isinstance(y, Tensor) else ""
        raise LossError(
            f"the loss cannot take an output {_described(output)} and labels {_described(y)}{dtype}: {error}"
        ) from error


def _described(value: Any) -> str:
    return f"{list(value.shape)}" if isinstance(value, Tensor) else f"({type(value).__name__})"


def _takes_reduction(loss: AnyLoss) -> bool:
    try:
        return "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False
