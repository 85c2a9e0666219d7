"""From samples to a gradient: the forward and backward pass of online learning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.functional_model import autocast
from taster.core.guard import ScreenedBatch
from taster.core.nested import tensors_in
from taster.core.state import LearnerState
from taster.core.types import Tensors
from taster.errors import BatchError, ModelError, SmallBatchError, TasterError

_NOTHING_TO_LEARN = (
    "got a loss that depends on none of the optimizer's parameters, so that nothing can be learned; wanted at least "
    "one of them unfrozen and used"
)


def online_gradient(screened: ScreenedBatch[Batch], state: LearnerState) -> tuple[Tensors, Tensor]:
    """Forward and backward pass over the screened samples: online learning's `GradientFn`.

    The gradients of the optimizer's parameters are zeroed before; parameters of the model that the optimizer does not
    hold have afterwards the gradients that they had before.

    Returns:
        the gradient by parameter name and the loss, [], which nothing has waited for. With sample weights w the loss is
        Σ wᵢ ℓᵢ / n. Labels are looked at when `state.readings` are read.

    Raises:
        ModelError: inside `torch.inference_mode`, and when no parameter has a gradient.
    """
    if torch.is_inference_mode_enabled():
        raise ModelError("got a step inside torch.inference_mode(), where nothing can be learned; wanted it outside")
    own = state.own_parameters()
    others = state.other_parameters()
    kept = [p.grad for p in others]
    try:
        for parameter in others:
            parameter.grad = None
        state.zero_grad()
        with torch.enable_grad():
            loss = _batch_loss(screened, state)
    finally:
        for parameter, gradient in zip(others, kept, strict=True):
            parameter.grad = gradient
    if state.scaler is not None:
        # What it would find infinite the step refuses, so that it need not be asked again before the update.
        for optimizer in state.optimizers:
            state.scaler.unscale_(optimizer)
        state.readings.add([loss], lambda found: _update_scale(state, state.scaler, found[0]))
    found = {name: p.grad for name, p in own.items() if p.grad is not None}
    if not found:
        raise ModelError(_NOTHING_TO_LEARN)
    return found, loss


def _update_scale(state: LearnerState, scaler: Any, loss: float) -> None:
    # A loss that is not finite, in whichever process, says nothing of the scale.
    finite = all(state.ranks.gather("the scale", math.isfinite(loss)))
    scaler.update(None if finite else scaler.get_scale())


def _batch_loss(screened: ScreenedBatch[Batch], state: LearnerState) -> Tensor:
    """The loss of the batch, whose gradient is added to the parameters' own."""
    batch, weights, size = screened.batch, screened.weights, state.micro_batch_size
    if size is None or size >= len(batch):
        return _backward(batch, weights, state, 1.0)
    losses = []
    for part in _parts(len(batch), size):
        chosen = None if weights is None else weights[part]
        losses.append(_backward(batch.select(part), chosen, state, (part.stop - part.start) / len(batch)))
    return torch.stack(losses).double().sum()


def _parts(samples: int, size: int) -> Iterator[slice]:
    """Parts of this size; the last one is larger, as batch norm cannot take a part of one sample."""
    count = max(1, samples // size)
    for i in range(count):
        yield slice(i * size, samples if i == count - 1 else (i + 1) * size)


def _backward(batch: Batch, weights: Tensor | None, state: LearnerState, share: float) -> Tensor:
    """Adds the gradient of a share of the loss to the parameters' own; returns it."""
    output = _output(batch, state)
    if weights is None:
        loss = state.objective.scalar(output, batch, readings=state.readings)
    else:
        again = partial(_output, state=state)
        losses = state.objective.samples(output, batch, again=again, readings=state.readings)
        loss = (weights * losses).mean()
    if share * batch.loss_weight != 1.0:
        loss = loss * (share * batch.loss_weight)
    if not loss.requires_grad:
        raise ModelError(_NOTHING_TO_LEARN)
    (loss if state.scaler is None else state.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _output(batch: Batch, state: LearnerState) -> Any:
    device = next((tensor.device for _, tensor in batch.tensors()), torch.device("cpu"))
    try:
        with autocast(device, state.precision):
            return state.objective.output(state.model, batch)
    except (torch.OutOfMemoryError, TasterError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise BatchError(f"the model cannot take {described(batch)}: {error}") from error
        raise SmallBatchError(
            f"got a batch of {len(batch)} sample, wanted at least 2: batch norm in train mode has no statistics of one "
            "value; collect more samples, or put the batch-norm layers into eval mode"
        ) from error


def described(batch: Batch) -> str:
    """The samples of a batch in words: shape, dtype and device."""
    found = [f"{path.removeprefix('x.')} {list(t.shape)} of {t.dtype}" for path, t in tensors_in(batch.x, "x")]
    device = next((t.device for _, t in tensors_in(batch.x)), "cpu")
    if isinstance(batch.x, Tensor):
        return f"samples {found[0].removeprefix('x ')} on {device}"
    return f"samples of {', '.join(found[:6])} on {device}"
