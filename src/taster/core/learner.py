"""A model that keeps learning, with a guard at the door."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args

import torch
from torch import Tensor, nn

from taster.core.backward import online_gradient
from taster.core.checkpoint import move_to_device
from taster.core.functional_model import Precision
from taster.core.guard import Guard, T
from taster.core.loading import AllOrNothing, Scheduler
from taster.core.losses import Loss
from taster.core.model_checks import check_model, check_optimizer
from taster.core.snapshots import Snapshot, SnapshotBuffer
from taster.core.state import COUNTERS, LearnerState, Progress
from taster.core.step import GradientFn, guarded_step
from taster.core.transaction import DryRun, Transaction
from taster.core.types import Batch, ClientUpdates, StepRecord
from taster.core.view import View
from taster.errors import BatchError, CheckpointError, ModelError, SnapshotError

_log = logging.getLogger(__name__)


class Learner:
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
        model: any module that maps x to one tensor.
        optimizer: over the model's parameters, or some of them.
        loss: of (output, y), one number; called without further arguments where samples are not weighted.
        guard: the stages each batch passes; `Guard()` lets everything through.
        snapshots: keeps snapshots for stages that rewind or compare with the past; None keeps at most five where the
            guard rewinds (`SnapshotBuffer.for_rewind`), and otherwise none.
        schedulers: learning-rate schedulers whose state belongs into checkpoints. Stepping them stays the caller's.
        input_range: the least and greatest value a sample may hold. For other data than images, None switches the check
            off (and admits whole-number inputs such as tokens).
        precision: of the forward pass; "bfloat16" and "float16" run it under autocast.
        micro_batch_size: samples that go through the network at a time; their gradients are added up, and the guard
            sees and judges the batch as a whole. For a loss that is a mean over samples. None takes all at once.
        scaler: scales losses so that gradients in float16 do not vanish; required for that precision. A step whose
            gradient overflows is refused, as the scaler itself would skip it, and the scale falls.
        on_refusal: called with the record and the batch (in federated learning the round's updates) of every update
            that was refused, also where part of the batch was learned then (the verdict is a commit, with the stage and
            the reason), after the step is over; a `taster.Quarantine` keeps batches. Each is logged as a warning as
            well, by the logger "taster.core.learner".

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
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        guard: Guard | None = None,
        *,
        snapshots: SnapshotBuffer | None = None,
        schedulers: list[Scheduler] | tuple[Scheduler, ...] = (),
        input_range: tuple[float, float] | None = (0.0, 1.0),
        precision: Precision = "float32",
        micro_batch_size: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
        on_refusal: Callable[[StepRecord, Any], None] | None = None,
    ) -> None:
        check_model(model)
        check_optimizer(model, optimizer)
        back = 0 if guard is None else guard.max_rewind
        if snapshots is None and back:
            snapshots = SnapshotBuffer.for_rewind(back)
        reach = 0 if snapshots is None else snapshots.reach
        if back > reach:
            raise SnapshotError(
                f"got a guard that rewinds up to {back} steps and snapshots that reach back {reach}; give the "
                f"learner SnapshotBuffer(capacity={back + 1}) or more"
            )
        if precision not in get_args(Precision):
            raise ModelError(f"got precision {precision!r}, wanted one of {', '.join(get_args(Precision))}")
        if precision == "float16" and scaler is None:
            raise ModelError(
                "got precision 'float16' and no scaler, wanted Learner(scaler=torch.amp.GradScaler(...)): small "
                "gradients would be zero in that format (bfloat16 needs none)"
            )
        if micro_batch_size is not None and micro_batch_size < 1:
            raise BatchError(f"got micro_batch_size {micro_batch_size}, wanted at least 1, or None")
        self.state = LearnerState(
            model,
            optimizer,
            loss,
            snapshots=snapshots,
            precision=precision,
            scaler=scaler,
            micro_batch_size=micro_batch_size,
            input_range=input_range,
        )
        self.guard = Guard() if guard is None else guard
        self.schedulers = tuple(schedulers)
        self.on_refusal = on_refusal
        self._check_guard()

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.state.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self.state.optimizer

    @property
    def loss(self) -> Loss:
        """The loss; another one can be assigned between steps."""
        return self.state.loss

    @loss.setter
    def loss(self, loss: Loss) -> None:
        self.state.loss = loss
        self.state.changed()

    @property
    def snapshots(self) -> SnapshotBuffer | None:
        """The snapshots that stages rewind to or compare with."""
        return self.state.snapshots

    @property
    def steps(self) -> int:
        """Steps made, refused ones included."""
        return self.state.steps

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The smallest and largest value a sample may hold; None for any."""
        return self.state.input_range

    @property
    def precision(self) -> Precision:
        """Number format of the forward pass."""
        return self.state.precision

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The gradient scaler."""
        return self.state.scaler

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the steps, by name, for any metrics library to read."""
        return self.state.progress.counters

    def step(self, x: Tensor | Batch, y: Tensor | None = None, *, trusted: bool = False) -> StepRecord:
        """Learns one batch, unless the guard refuses it.

        Args:
            x: samples, [n, ...], on the model's device; or a `Batch`, which brings its labels along.
            y: labels, [n, ...]; None where x is a Batch.
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
        if isinstance(x, Batch):
            if y is not None:
                raise BatchError("got a Batch and labels beside it, wanted step(batch) or step(x, y)")
            batch = x
        elif y is None:
            raise BatchError("got samples without labels, wanted step(batch) or step(x, y)")
        else:
            batch = Batch(x, y)
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
        if (self.guard, self.guard.renewals) != self._checked_guard:
            self._check_guard()
        record = guarded_step(self.state, batch, self.guard, compute_gradient, trusted=trusted)
        if alarm:
            self._alarm(record, batch)
        return record

    def _check_guard(self) -> None:
        """Checks that the guard's trusted data fit the model."""
        self.guard.check_model(self.view())
        self._checked_guard = (self.guard, self.guard.renewals)

    def view(self) -> View:
        """What may be seen of the learner now."""
        return self.state.view()

    def snapshot(self) -> Snapshot:
        """A snapshot of the present state. Its tensors are the live ones: a `SnapshotBuffer` copies what it keeps."""
        return self.state.snapshot()

    @property
    def in_transaction(self) -> bool:
        """Whether a step is being made, so that model and optimizer may hold an update that is not judged yet."""
        return self.state.transaction is not None

    def dry_run(self) -> Transaction:
        """A context in which anything may be done to model and optimizer, and all of it is undone at its end."""
        return DryRun(self.state, self.guard)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: model, optimizer, schedulers, guard, snapshots, scaler and counts.

        `taster.save_state` writes it as safetensors. The tensors of the model are the live ones, as in
        `torch.nn.Module.state_dict`. Asked in the middle of a step, by a signal handler for instance, it is the state
        before the step (copied): an update that has not been judged is in no checkpoint.
        """
        transaction = self.state.transaction
        if transaction is None:
            model, optimizer = dict(self.model.state_dict()), self.optimizer.state_dict()
        else:
            before = transaction.state_dicts()
            model, optimizer = before["model"], before["optimizer"]
        return {"model": model, "optimizer": optimizer, **self.guard_state_dict()}

    def guard_state_dict(self) -> dict[str, Any]:
        """The part of `state_dict` that is neither the model's nor the optimizer's, for `load_guard_state_dict`: guard,
        snapshots, scaler, schedulers and counts."""
        state = self.state
        transaction = state.transaction
        if transaction is None:
            own: dict[str, Any] = {
                "progress": state.progress,
                "guard": self.guard.state_dict(),
                "scaler": None if state.scaler is None else state.scaler.state_dict(),
                "snapshots": None if state.snapshots is None else state.snapshots.state_dict(),
            }
        else:
            own = transaction.state_dicts()
        progress: Progress = own["progress"]
        return {
            "steps": progress.steps,
            "refused": progress.refusals,
            "counters": dict(progress.counters),
            "guard": own["guard"],
            "scaler": own["scaler"],
            "snapshots": own["snapshots"],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the state of `state_dict` into a learner built in the same way.

        Raises:
            CheckpointError: when parts are missing or belong to another learner; nothing has been loaded then.
        """
        with AllOrNothing(self.state, self.guard, self.schedulers, state, {"model", "optimizer"}):
            self.model.load_state_dict(state["model"])
            # Copied, as the optimizer would otherwise go on writing into the caller's tensors.
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
            self._load_guard_state(state)

    def load_guard_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads guard, snapshots, scaler, schedulers and counts; model and optimizer must already be restored.

        Raises:
            CheckpointError: when parts are missing or belong to another learner; nothing has been loaded then.
        """
        with AllOrNothing(self.state, self.guard, self.schedulers, state):
            self._load_guard_state(state)

    def _load_guard_state(self, state: Mapping[str, Any]) -> None:
        own = self.state
        self.guard.check_state_dict(state["guard"])
        # Read from a file it lies on the CPU.
        self.guard.load_state_dict(move_to_device(state["guard"], next(self.model.parameters()).device))
        if own.snapshots is not None and state["snapshots"] is not None:
            own.snapshots.load_state_dict(state["snapshots"])
        counters = state["counters"]
        if set(counters) != set(COUNTERS) or not all(type(n) is int and n >= 0 for n in counters.values()):
            raise CheckpointError(f"got counters {dict(counters)}, wanted whole numbers for {', '.join(COUNTERS)}")
        steps, refusals = state["steps"], state["refused"]
        if type(steps) is not int or type(refusals) is not int or min(steps, refusals) < 0:
            raise CheckpointError(f"got steps {steps!r} and refused {refusals!r}, wanted whole numbers of at least 0")
        if own.scaler is not None and state["scaler"]:
            own.scaler.load_state_dict(state["scaler"])
        if len(state["schedulers"]) != len(self.schedulers):
            raise CheckpointError(
                f"got the state of {len(state['schedulers'])} schedulers, wanted that of {len(self.schedulers)}: hand "
                "over the same ones, Learner(schedulers=[...])"
            )
        for scheduler, entry in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(copy.deepcopy(entry))
        own.progress = Progress(steps, refusals, MappingProxyType({name: counters[name] for name in COUNTERS}))

    def _alarm(self, record: StepRecord, batch: Batch | ClientUpdates) -> None:
        """Logs a refusal and hands it to `on_refusal`."""
        verdict = record.verdict
        salvaged = verdict.committed and record.attempts > 1
        if verdict.committed and not salvaged:
            return
        said = "salvaged, refused" if salvaged else "rewound" if verdict.steps else "rejected"
        _log.warning("step %d: %s by %s: %s", record.step, said, verdict.stage, verdict.reason)
        if self.on_refusal is not None:
            self.on_refusal(record, batch)

    def validate_batch(self, batch: Batch) -> None:
        """Refuses what no caller can have meant; values that are not finite are the guard's business.

        Raises:
            BatchError: for samples out of `input_range`.
        """
        if self.input_range is None:
            return
        if not batch.x.is_floating_point():
            raise BatchError(
                f"got samples of dtype {batch.x.dtype}, wanted floating point in {list(self.input_range)}: "
                "images of whole numbers are to be divided by 255; for other data give Learner(input_range=None)"
            )
        low, high = (float(v) for v in torch.aminmax(batch.x.detach()))
        # Comparisons with NaN are false, so a NaN passes here and is refused by the guarded step.
        if (low < self.input_range[0] and low != -float("inf")) or (
            high > self.input_range[1] and high != float("inf")
        ):
            raise BatchError(
                f"got samples from {low:g} to {high:g}, wanted {list(self.input_range)}; normalise inside the model, "
                "or give Learner(input_range=...) the range of your data (None for any)"
            )
