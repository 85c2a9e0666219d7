"""How a model is called with a batch, and what its output is worth: the part of training that is the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from taster.core.batch import Batch
from taster.core.host import Readings
from taster.core.losses import AnyLoss, KnownLabels, is_loss_of_torch, sample_losses, scalar_loss
from taster.core.nested import Nested, main_output, map_leaves, own_loss, tensors_in
from taster.errors import LossError, ModelError

_HALF = (torch.bfloat16, torch.float16)

ForwardFn = Callable[[Any, Any], Any]
"""(model, batch) -> output. The batch is what the step was given: a nested value, or a `Batch` of x and y."""


@dataclass(frozen=True, eq=False)
class Objective:
    """A forward pass and a loss.

    Attributes:
        loss: of (output, y) where labels are given beside the samples and there is no `forward`; of (output, batch)
            otherwise. None takes the loss that the model itself has computed.
        forward: of (model, batch); None calls the model with x: as keyword arguments if it is a dictionary, as
            arguments if it is a plain list or tuple.
    """

    loss: AnyLoss | None
    forward: ForwardFn | None = None

    def output(self, model: nn.Module, x: Nested, y: Nested = None) -> Nested:
        """The model's output, in float32 or wider, for samples and labels or a `Batch`."""
        if self.forward is not None:
            return to_float32(self.forward(model, _whole(x, y)))
        x = x.x if isinstance(x, Batch) else x
        if isinstance(x, Mapping):
            return to_float32(model(**x))
        if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
            return to_float32(model(*x))
        return to_float32(model(x))

    def scalar(self, output: Nested, x: Nested, y: Nested = None, *, readings: Readings | None = None) -> Tensor:
        """The loss of a batch as one number.

        Args:
            output: for all samples.
            x, y: the samples, or a `Batch`.
            readings: where labels are to be looked at later, with other numbers; None looks at once.

        Raises:
            LossError, LabelError: see `taster.core.losses`.
        """
        if self.loss is None:
            return _own_loss(output)
        return scalar_loss(self.loss, self._comparable(output), self._target(x, y), readings)

    def samples(
        self,
        output: Nested,
        x: Nested,
        y: Nested = None,
        *,
        again: Callable[[Batch], Nested] | None = None,
        readings: Readings | None = None,
        known: KnownLabels | None = None,
    ) -> Tensor:
        """The loss of each sample, [n].

        Args:
            output: for all of them.
            x, y: the samples, or a `Batch`.
            again: the output for some of the samples; needed where the model computes its loss itself, or no loss for
                one sample can be had from its output.
            readings: as in `scalar`.
            known: of the labels, where they were checked before.

        Raises:
            LossError: when the loss is none of single samples.
        """
        comparable = self._comparable(output)
        y = x.y if isinstance(x, Batch) else y
        if (
            self.loss is not None
            and self.compares_labels(y)
            and isinstance(comparable, Tensor)
            and isinstance(y, Tensor)
        ):
            return sample_losses(self.loss, comparable, y, readings, known)
        batch = as_batch(x, y)
        outputs = None if self.loss is None else _by_sample(output, len(batch))
        if outputs is None and again is None:
            raise LossError("got an output that does not come apart into samples, wanted [n, ...] in each of its parts")
        found = []
        for i in range(len(batch)):
            one = batch.select(slice(i, i + 1))
            value = again(one) if outputs is None and again is not None else outputs.select(slice(i, i + 1)).x  # type: ignore[union-attr]
            found.append(self.scalar(value, one, readings=readings))
        return torch.stack(found)

    def compares_labels(self, y: Nested) -> bool:
        """Whether the loss is one of outputs and labels, and not of whole batches."""
        return self.loss is not None and self.forward is None and y is not None

    def compares_predictions(self, output: Nested, y: Nested) -> bool:
        """Whether the loss is one of the predictions in this output and of a tensor of labels, and of nothing else."""
        if self.loss is None or not self.compares_labels(y) or not isinstance(y, Tensor):
            return False
        return isinstance(output, Tensor) or is_loss_of_torch(self.loss)

    def _target(self, x: Nested, y: Nested) -> Any:
        y = x.y if isinstance(x, Batch) else y
        if self.compares_labels(y):
            return y
        return _whole(x, y)

    def _comparable(self, output: Nested) -> Any:
        """What the loss is called with: of torch's own losses the tensor of predictions."""
        if isinstance(output, Tensor) or self.loss is None or not is_loss_of_torch(self.loss):
            return output
        found = main_output(output)
        if found is None:
            raise ModelError(
                f"got a model that returned {type(output).__name__} with several tensors and none called logits, "
                "wanted Learner(forward=lambda model, batch: ...) that returns the one for the loss"
            )
        return found


def as_batch(x: Nested, y: Nested = None) -> Batch:
    """Samples and labels, or a `Batch`, as a batch."""
    return x if isinstance(x, Batch) else Batch(x, y)


def _whole(x: Nested, y: Nested) -> Any:
    """What functions of (model, batch) and (output, batch) are given."""
    return x.data if isinstance(x, Batch) else x if y is None else Batch(x, y)


def to_float32(output: Nested) -> Nested:
    """An output whose half-precision tensors are widened to float32, so that losses are computed in full.

    Raises:
        ModelError: when there is no tensor in it.
    """
    if isinstance(output, (Tensor, PackedSequence)):
        return _widened("", output)
    if not any(True for _ in tensors_in(output)):
        raise ModelError(f"the model returned {type(output).__name__}, wanted a torch.Tensor, or a container of them")
    return map_leaves(_widened, output)


def _widened(_: str, value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return value if value.data.dtype not in _HALF else value.float()
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


def _own_loss(output: Nested) -> Tensor:
    value = own_loss(output)
    if value is None:
        raise LossError(
            f"got loss None and a model whose output ({type(output).__name__}) holds no loss, wanted one number as its "
            "`loss`, in front of a tuple or alone: give the batch its labels, or Learner(loss=...)"
        )
    return value.reshape(())


def _by_sample(output: Nested, size: int) -> Batch | None:
    """The output as a batch of as many samples, if that is what it is."""
    if any(tensor.dim() == 0 or len(tensor) != size for _, tensor in tensors_in(output)):
        return None
    return Batch(output)
