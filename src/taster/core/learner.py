"""A model that keeps learning, with a guard at the door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from taster.core.backward import online_gradient
from taster.core.batch import Batch
from taster.core.functional_model import Precision
from taster.core.guard import Guard, T
from taster.core.guarded_training import GuardedTraining
from taster.core.loading import Scheduler
from taster.core.losses import AnyLoss
from taster.core.model_checks import check_no_closure
from taster.core.objective import ForwardFn, Objective
from taster.core.ranks import ProcessGroup
from taster.core.snapshots import SnapshotBuffer
from taster.core.state import Companion
from taster.core.step import GradientFn, guarded_step
from taster.core.step_record import StepRecord
from taster.core.training_state import Optimizers, training_state
from taster.errors import BatchError, GuardError, LossError, ModelError


def check_is_loss(loss: object) -> None:
    """Refuses what cannot be a loss.

    Raises:
        GuardError: for a guard in its place.
        LossError: for a class that was not called, and anything else that cannot be called.
    """
    if isinstance(loss, Guard):
        raise GuardError("got a guard in the place of the loss, wanted Learner(model, optimizer, loss, guard)")
    if isinstance(loss, type):
        raise LossError(f"got the class {loss.__name__} as the loss, wanted an instance of it: {loss.__name__}()")
    if loss is not None and not callable(loss):
        raise LossError(f"got a {type(loss).__name__} as the loss, wanted a function of output and labels, or None")


class Learner(GuardedTraining):
    """A model, its optimizer and its loss, updated one guarded step at a time.

        learner = Learner(model, optimizer, torch.nn.functional.cross_entropy, guard=probe_gate(probe))
        for x, y in stream:
            record = learner.step(x, y)

    With an empty guard a step is `optimizer.zero_grad(); loss.backward(); optimizer.step()`, bit for bit. The model's
    train or eval mode is the caller's and stays unchanged.

    A step is all or nothing. A refused update, or an exception from any line of a step, leaves parameters, buffers,
    extra state, optimizer, scaler, guard and counts as they were, bit for bit; gradients are cleared, and random
    numbers that were drawn stay drawn. Attributes of modules that are neither buffers nor extra state are not covered.
    One thread at a time makes steps.

    Args:
        model: any module; also inside `DistributedDataParallel` or `torch.compile`.
        optimizer: over the model's parameters, or some of them; several make their steps one after the other.
        loss: of (output, y), one number; of (output, batch) for batches that hold everything in one, and with
            `forward`. None takes the loss that the model computes itself, as those of Transformers do.
        guard: the stages each batch passes; `Guard()` lets everything through.
        forward: (model, batch) -> output, where `model(x)` (`model(**x)` for dictionaries) does not fit. The batch is
            what `step` was given: as it is, or a `Batch` of x and y.
        snapshots: keeps snapshots for stages that rewind or compare with the past; None keeps at most five where the
            guard rewinds (`SnapshotBuffer.for_rewind`), and otherwise none.
        schedulers: learning-rate schedulers whose state belongs into checkpoints. Stepping them stays the caller's.
        also: what else joins the transaction, a moving average of the weights say: modules, and whatever has
            `state_dict` and `load_state_dict`.
        input_range: the least and greatest value a sample may hold, (0, 1) for images say; None checks nothing.
        precision: of the forward pass; "bfloat16" and "float16" run it under autocast.
        micro_batch_size: samples that go through the network at a time; their gradients are added up, and the guard
            sees and judges the batch as a whole. For a loss that is a mean over samples. None takes all at once.
        scaler: scales losses so that gradients in float16 do not vanish; required for that precision. A step whose
            gradient overflows is refused, as the scaler itself would skip it, and the scale falls.
        on_refusal: called with the record and the batch (in federated learning the round's updates) of every update
            that was refused, also where part of the batch was learned then (the verdict is a commit, with the stage and
            the reason), after the step is over; a `taster.Quarantine` keeps batches. Each is logged as a warning as
            well, by the logger "taster.core.learner".
        process_group: the processes that train the model together, so that one verdict holds for all; "auto" takes that
            of `DistributedDataParallel`. None for a model of this process alone.

    Raises:
        BatchError: for a micro-batch under 1.
        ModelError: for float16 without a scaler; TorchScript; lazy layers without a shape; parameters that are all
            frozen; an optimizer that holds none of the model's parameters, or others beside them, or needs a closure;
            and where the guard's trusted data does not fit the model.
        SnapshotError: when the guard may rewind further than the snapshots reach back.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        loss: AnyLoss | None = None,
        guard: Guard | None = None,
        *,
        forward: ForwardFn | None = None,
        snapshots: SnapshotBuffer | None = None,
        schedulers: Sequence[Scheduler] = (),
        also: Companion | Sequence[Companion] = (),
        input_range: tuple[float, float] | None = None,
        precision: Precision = "float32",
        micro_batch_size: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
        on_refusal: Callable[[StepRecord, Any], None] | None = None,
        process_group: ProcessGroup | Literal["auto"] | None = "auto",
    ) -> None:
        check_is_loss(loss)
        if precision not in get_args(Precision):
            raise ModelError(f"got precision {precision!r}, wanted one of {', '.join(get_args(Precision))}")
        if precision == "float16" and scaler is None:
            raise ModelError(
                "got precision 'float16' and no scaler, wanted Learner(scaler=torch.amp.GradScaler(...)): small "
                "gradients would be zero in that format (bfloat16 needs none)"
            )
        if micro_batch_size is not None and micro_batch_size < 1:
            raise BatchError(f"got micro_batch_size {micro_batch_size}, wanted at least 1, or None")
        state = training_state(
            model,
            optimizer,
            Objective(loss, forward),
            guard,
            snapshots=snapshots,
            process_group=process_group,
            also=also,
            precision=precision,
            scaler=scaler,
            micro_batch_size=micro_batch_size,
            input_range=input_range,
        )
        check_no_closure(state.optimizers)
        super().__init__(state, guard, schedulers=schedulers, on_refusal=on_refusal, process_group=process_group)

    def step(self, x: Any, y: Any = None, *, trusted: bool = False) -> StepRecord:
        """Learns one batch, unless the guard refuses it.

        Args:
            x: samples, [n, ...], on the model's device, nested or not; or a `Batch`; or a batch that holds everything
                in one, as a data loader gives it.
            y: labels, [n, ...]; None where x brings them along.
            trusted: the batch passes no screen and no gate. Values that are not finite are refused still.

        Returns:
            what became of it. A batch, loss or gradient that is not finite is refused, with the reason in the record.

        Raises:
            BatchError: for a malformed batch: no samples, unequal lengths, wrong shape, dtype or device, values out of
                range, or a single sample where batch norm needs more. The learner is then as before, bit for bit.
            LabelError: for labels that the model has no output for.
            LossError: for a loss that returns no single number, or cannot take the output and labels.
            TransactionError: for a step inside another, or in two threads at once.
        """
        batch = self.as_batch(x, y)
        return self.run(batch, online_gradient, trusted=trusted)

    def run(
        self, batch: T, compute_gradient: GradientFn[T], *, trusted: bool = False, alarm: bool = True
    ) -> StepRecord:
        """One guarded step with a gradient of the caller's own making: what `step`, a federated server, Lightning and
        an attacker's simulation of a guard have in common.

        Args:
            batch: samples, or the updates of a round's clients.
            compute_gradient: called with what the screens left and with the learner's state; returns the gradient by
                parameter name, and the loss or None. It may be called several times, or not at all.
            trusted: as in `step`.
            alarm: whether a refusal is logged and handed to `on_refusal`.
        """
        if isinstance(batch, Batch):
            self.validate_batch(batch)
        record = guarded_step(self.state, batch, self.current_guard(), compute_gradient, trusted=trusted)
        if alarm:
            self.alarm(record, batch)
        return record

    def as_batch(self, x: Any, y: Any = None) -> Batch:
        """What a step was given, as a batch: samples and labels; a `Batch`; or everything in one. Without a `forward`
        a list or tuple of two, as a data loader makes it, is samples and labels.

        Raises:
            BatchError: for anything without samples, or with unequal lengths.
        """
        if isinstance(x, Batch):
            if y is not None:
                raise BatchError("got a Batch and labels beside it, wanted step(batch) or step(x, y)")
            return x
        if y is not None:
            return Batch(x, y)
        objective = self.state.objective
        called_with_x = objective.forward is None and objective.loss is not None
        if called_with_x and isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
            if len(x) != 2:
                raise BatchError(
                    f"got a batch of {len(x)} parts, wanted samples and labels, or Learner(forward=..., loss=...) that "
                    "take it as it is"
                )
            return Batch(x[0], x[1])
        if called_with_x and isinstance(x, Tensor):
            raise BatchError(
                "got samples without labels, wanted step(x, y); step(x, x) where they are their own targets, or "
                "Learner(loss=None) for a model that computes its loss itself"
            )
        return Batch(x)
