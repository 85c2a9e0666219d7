"""From samples to a gradient: the forward and backward pass of online learning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taster.core.functional_model import autocast, to_float32
from taster.core.guard import ScreenedBatch
from taster.core.losses import sample_losses, scalar_loss
from taster.core.types import Batch, Tensors
from taster.errors import BatchError, SmallBatchError

if TYPE_CHECKING:
    from taster.core.learner import Learner


def backward(admitted: ScreenedBatch[Batch], learner: Learner) -> tuple[Tensors, float]:
    """Online learning's `reduce`: forward and backward pass over the admitted samples.

    Returns:
        the gradient by parameter name and the loss. With sample weights w the loss is Σ wᵢ ℓᵢ / n.
    """
    batch, weights = admitted.batch, admitted.weights
    learner.optimizer.zero_grad()
    if learner.micro_batch_size is None or learner.micro_batch_size >= len(batch):
        loss = _backward(batch, weights, learner, 1.0)
    else:
        loss = 0.0
        for part in _parts(len(batch), learner.micro_batch_size):
            chosen = None if weights is None else weights[part]
            loss += _backward(batch.select(part), chosen, learner, (part.stop - part.start) / len(batch))
    if learner.scaler is not None:
        # What it would find infinite the step refuses, so that it need not be asked again before the update.
        learner.scaler.unscale_(learner.optimizer)
        # A loss that is not finite says nothing of the scale.
        learner.scaler.update(None if math.isfinite(loss) else learner.scaler.get_scale())
    return {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}, loss


def _parts(samples: int, size: int) -> Iterator[slice]:
    """Parts of this size; the last one is larger, as batch norm cannot take a part of one sample."""
    count = max(1, samples // size)
    for i in range(count):
        yield slice(i * size, samples if i == count - 1 else (i + 1) * size)


def _backward(batch: Batch, weights: Tensor | None, learner: Learner, share: float) -> float:
    """Adds the gradient of a share of the loss to the parameters' own; returns it."""
    try:
        with autocast(batch.x.device, learner.precision):
            output = learner.model(batch.x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise BatchError(
                f"the model cannot take samples {list(batch.x.shape)} of {batch.x.dtype} on {batch.x.device}: {error}"
            ) from error
        raise SmallBatchError(
            f"got a batch of {len(batch)} sample, wanted at least 2: batch norm in train mode has no statistics of one "
            "value; collect more samples, or put the batch-norm layers into eval mode"
        ) from error
    output = to_float32(output)
    if weights is None:
        loss = scalar_loss(learner.loss, output, batch.y)
    else:
        loss = (weights * sample_losses(learner.loss, output, batch.y)).mean()
    if share * batch.loss_weight != 1.0:
        loss = loss * (share * batch.loss_weight)
    (loss if learner.scaler is None else learner.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())
