"""A model that keeps learning, with a guard at the door."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from taster.core.backward import backward
from taster.core.checkpoint import move_to_device
from taster.core.functional_model import FunctionalModel, Precision
from taster.core.guard import Guard
from taster.core.losses import Loss
from taster.core.snapshots import SnapshotBuffer, Snapshot
from taster.core.step import guarded_step
from taster.core.transaction import StateBackup, Transaction, snapshot_of
from taster.core.types import Action, Batch, StepRecord, Updates
from taster.core.view import View
from taster.errors import BatchError, CheckpointError, SnapshotError, ModelError

_log = logging.getLogger(__name__)

_ACTIONS = {Action.COMMIT: "committed", Action.REJECT: "rejected", Action.REWIND: "rewound"}


class Learner:
    """A model, its optimizer and its loss, updated one guarded step at a time.

        learner = Learner(model, optimizer, torch.nn.functional.cross_entropy, guard=probe_gate(probe))
        for x, y in stream:
            record = learner.step(x, y)

    With an empty guard a step is `loss.backward(); optimizer.step()`, bit for bit. The model's train or eval mode is
    the caller's and is left as it is; learning-rate schedulers go on working, as the optimizer is the caller's own.

    Args:
        model: any module that maps x to one tensor.
        optimizer: over the model's parameters.
        loss: of (output, y), one number; called without further arguments where samples are not weighted.
        guard: the stages each batch passes; `Guard()` lets everything through.
        history: keeps snapshots for stages that rewind or compare with the past; None keeps five at most where the
            guard rewinds (`History.reaching`), and else none.
        input_range: the least and greatest value a sample may hold. Other data than images: None switches the check
            off (and admits whole-number inputs such as tokens).
        precision: of the forward pass; "bfloat16" and "float16" run it under autocast.
        micro_batch_size: samples that go through the network at a time; their gradients are added up, and the guard sees and
            judges the batch as a whole. For a loss that is a mean over samples. None takes all at once.
        scaler: scales losses so that gradients in float16 do not vanish; wanted for that precision. A step whose
            gradient overflows is refused, as the scaler itself would skip it, and the scale falls.
        on_refusal: called with the record and the batch (in federated learning the round's updates) of every update
            that was refused, also where part of the batch was learned then (the verdict is a commit, with the stage and
            the reason), after the step is over; a `taster.Quarantine` keeps batches. Each is logged as a warning as
            well, by the logger "taster.core.learner".

    Attributes:
        counters: what has become of the steps of this object: plain numbers by name, for any metrics library to read.

    Raises:
        BatchError: for a micro-batch under 1.
        ModelError: for float16 without a scaler; when the optimizer holds none of the model's parameters, or others
            beside them, or needs a closure (LBFGS).
        HistoryError: when the guard may rewind further than the history reaches back.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        guard: Guard | None = None,
        *,
        history: SnapshotBuffer | None = None,
        input_range: tuple[float, float] | None = (0.0, 1.0),
        precision: Precision = "float32",
        micro_batch_size: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
        on_refusal: Callable[[StepRecord, Any], None] | None = None,
    ) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        own = {id(p) for p in model.parameters()}
        if not held & own:
            raise ModelError(
                "got an optimizer that holds none of the model's parameters, wanted one made for this model"
            )
        if held - own:
            raise ModelError(
                f"got an optimizer that holds {len(held - own)} parameters outside the model, which no guard sees; "
                "wanted one module that holds them all"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ModelError(
                "got LBFGS, which evaluates the loss as often as it likes; wanted an optimizer that steps once"
            )
        back = 0 if guard is None else guard.max_rewind
        if history is None and back:
            history = SnapshotBuffer.for_rewind(back)
        reach = 0 if history is None else history.reach
        if back > reach:
            raise SnapshotError(
                f"got a guard that rewinds up to {back} steps and a history that reaches back {reach}; give the "
                f"learner History(capacity={back + 1}) or more"
            )
        if precision not in get_args(Precision):
            raise ModelError(f"got precision {precision!r}, wanted one of {', '.join(get_args(Precision))}")
        if precision == "float16" and scaler is None:
            raise ModelError(
                "got precision 'float16' and no scaler, wanted Learner(scaler=torch.amp.GradScaler(...)): small "
                "gradients would be zero in that format (bfloat16 needs none)"
            )
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.guard = Guard() if guard is None else guard
        self.history = history
        self.steps = 0
        self.input_range = input_range
        self.precision: Precision = precision
        if micro_batch_size is not None and micro_batch_size < 1:
            raise BatchError(f"got micro_batch_size {micro_batch_size}, wanted at least 1, or None")
        self.micro_batch_size = micro_batch_size
        self.scaler = scaler
        self.on_refusal = on_refusal
        self.counters = dict.fromkeys(
            ("steps", "committed", "rejected", "rewound", "samples", "dropped", "corrected", "salvaged"), 0
        )
        self._functional: FunctionalModel | None = None
        self._state = StateBackup(model, optimizer)
        self._moment = object()
        self._kept: object | None = None  # the moment of the newest snapshot
        self._refused = 0  # updates in a row

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
        """
        if isinstance(x, Batch):
            if y is not None:
                raise BatchError("got a Batch and labels beside it, wanted step(batch) or step(x, y)")
            batch = x
        elif y is None:
            raise BatchError("got samples without labels, wanted step(batch) or step(x, y)")
        else:
            batch = Batch(x, y)
        self.validate_batch(batch)
        record = guarded_step(self, batch, _Unasked(self.guard) if trusted else self.guard, backward)
        record = replace(record, trusted=trusted)
        self._record_outcome(record, batch)
        return record

    def view(self) -> View:
        """What may be seen of the learner now."""
        moment = self._moment
        return View(
            self._pure,
            dict(self.model.named_parameters()),
            dict(self.model.named_buffers()),
            step=self.steps,
            history=self.history,
            moment=moment,
            current=lambda: self._moment is moment,
        )

    def transaction(self) -> Transaction:
        """Opens one step: parameters, buffers and optimizer state are kept until a verdict settles it."""
        return Transaction(self, self._state)

    def apply_gradient(self, gradient: Mapping[str, Tensor]) -> None:
        """One optimizer step with this gradient; a parameter without an entry has no gradient."""
        for name, parameter in self.model.named_parameters():
            parameter.grad = gradient.get(name)
        self.optimizer.step()
        self._changed()

    def snapshot(self) -> Snapshot:
        """The state as it is now. Its tensors are the live ones: `History` copies what it keeps."""
        return snapshot_of(self.model, self.optimizer, self.steps)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot: parameters, buffers and optimizer state. The count of steps goes on."""
        _load_tensors(dict(self.model.named_parameters()), snapshot.params, "parameter")
        _load_tensors(dict(self.model.named_buffers()), snapshot.buffers, "buffer")
        # Copied, as the optimizer would otherwise go on writing into the snapshot. Learning rates and the like are not
        # what was learned: they stay as the schedule has them.
        present = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**copy.deepcopy(snapshot.optimizer), "param_groups": present})
        if self.history is not None:
            self.history.forget_after(snapshot.step)
        self._changed()

    @property
    def in_transaction(self) -> bool:
        """Whether a step is being made, so that model and optimizer may hold an update that is not judged yet."""
        return self._state.in_use

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: model, optimizer, guard, history and count of steps.

        `taster.save_state` writes it as safetensors. The tensors of the model are the live ones, as in
        `torch.nn.Module.state_dict`. Asked in the middle of a step, by a signal handler say, it is the state before the
        step (copied): an update that has not been judged is in no checkpoint.
        """
        if self.in_transaction:
            model, optimizer = self._state.state_dicts()
        else:
            model, optimizer = dict(self.model.state_dict()), self.optimizer.state_dict()
        return {"model": model, "optimizer": optimizer, **self.guard_state_dict()}

    def guard_state_dict(self) -> dict[str, Any]:
        """The part of `state_dict` that is neither the model's nor the optimizer's, for `take_up`: guard, history,
        scaler and counts."""
        return {
            "steps": self.steps,
            "guard": self.guard.state_dict(),
            "refused": self._refused,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "history": None if self.history is None else self.history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up the state of `state_dict`, for a learner built in the same way.

        Raises:
            CheckpointError: when parts are missing or belong to another model; nothing has been loaded then.
        """
        missing = {"steps", "model", "optimizer", "guard", "history"} - set(state)
        if missing:
            raise CheckpointError(f"got a state without {sorted(missing)}, wanted what Learner.state_dict returns")
        self.guard.check_state_dict(state["guard"])
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        except (RuntimeError, ValueError, KeyError) as error:
            self.model.load_state_dict(before)
            raise CheckpointError(f"got the state of another model or optimizer: {error}") from error
        self.load_guard_state_dict(state)

    def load_guard_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `own_state` gave, for whoever has put model and optimizer back himself.

        Raises:
            CheckpointError: when the guard's state belongs to another guard.
        """
        # Read from a file it lies on the CPU.
        self.guard.load_state_dict(move_to_device(state["guard"], next(self.model.parameters()).device))
        if self.history is not None and state["history"] is not None:
            self.history.load_state_dict(state["history"])
        self.steps = int(state["steps"])
        self._refused = int(state.get("refused", 0))
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self._changed()

    def _record_outcome(self, record: StepRecord, batch: Batch | Updates) -> None:
        """Counts, and raises the alarm."""
        action = _ACTIONS[record.verdict.action]
        salvaged = record.verdict.committed and record.attempts > 1
        for name, count in (
            ("steps", 1),
            (action, 1),
            ("samples", record.samples),
            ("dropped", record.dropped),
            ("corrected", record.corrected),
            ("salvaged", int(salvaged)),
        ):
            self.counters[name] += count
        if salvaged or not record.verdict.committed:
            verdict = record.verdict
            said = "salvaged, refused" if salvaged else action
            _log.warning("step %d: %s by %s: %s", record.step, said, verdict.stage, verdict.reason)
            if self.on_refusal is not None:
                self.on_refusal(record, batch)

    def validate_batch(self, batch: Batch) -> None:
        """Refuses what no caller can have meant; values that are not finite are the guard's business."""
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

    def _reset_momentum_after_refusals(self, record: StepRecord, patience: int) -> None:
        """Lets go of the optimizer's momentum after so many refusals in a row; 0 for never.

        What a refused update leaves is also the momentum it was made with. Where that is what does harm, it would be in
        the next update again, and in every other, so that nothing was learned any more.
        """
        if record.attempts == 0:
            return
        self._refused = 0 if record.verdict.committed else self._refused + 1
        if self._refused and patience and self._refused % patience == 0:
            self._state.reset_momentum()
            self._changed()

    def _pure(self) -> FunctionalModel:
        if self._functional is None:
            self._functional = FunctionalModel(self.model, self.loss, self.precision)
        return self._functional

    def _changed(self) -> None:
        """Makes every view handed out so far stale."""
        self._moment = object()

    def _require_history(self, step: int) -> SnapshotBuffer:
        if self.history is None:
            raise SnapshotError(
                f"a gate asked to rewind to step {step}, but the learner keeps no history; "
                "give it one: Learner(history=History())"
            )
        return self.history


class _Unasked(Guard):
    """A guard whose screens and gates are not asked, but watch."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(transforms=guard.transforms)
        self._watching = guard

    def observe(self, record: StepRecord, view: View) -> None:
        self._watching.observe(replace(record, trusted=True), view)


def _load_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], kind: str) -> None:
    if live.keys() != saved.keys():
        raise CheckpointError(
            f"got a snapshot of another model: its {kind} names differ in {sorted(live.keys() ^ saved.keys())}"
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
