"""What `Learner` and `Guarded` have in common: a state, a guard, and what is said of refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from taster.core.alarm import Alarm, AlarmState
from taster.core.batch import Batch
from taster.core.checkpoint import move_to_device
from taster.core.client_updates import ClientUpdates
from taster.core.frozen import with_frozen, without_frozen
from taster.core.functional_model import Precision
from taster.core.guard import Guard, stage_name
from taster.core.guard_digest import check_guard
from taster.core.host import to_host
from taster.core.loading import LEARNER, AllOrNothing, Scheduler
from taster.core.losses import AnyLoss
from taster.core.model_checks import check_model, check_optimizers
from taster.core.nested import is_label, tensors_in
from taster.core.objective import Objective
from taster.core.progress import COUNTERS, Progress
from taster.core.ranks import ProcessGroup, ranks_of, unwrapped
from taster.core.refusal_run import RefusalRun
from taster.core.snapshots import Snapshot, SnapshotBuffer
from taster.core.state import LearnerState
from taster.core.step_record import StepRecord
from taster.core.training_state import Models, Optimizers, as_module, as_optimizers, modules_of
from taster.core.transaction import DryRun, Transaction
from taster.core.view import View
from taster.errors import BatchError, CheckpointError, TransactionError

_MANY = 10
"""Steps after which something is said of the optimizer if all of them were refused."""

_NOTHING_LEARNED = (
    "all updates so far were refused, and each was made without a state, which makes it larger than later ones "
    "(RMSprop's first is ten times as large); wanted a smaller learning rate to begin with, or a warm-up"
)


class GuardedTraining:
    """A model and its optimizers behind a guard, whoever makes the steps.

    Args:
        state: what a step may change.
        guard: the stages that each batch passes.
        schedulers: learning-rate schedulers whose state belongs into checkpoints.
        on_refusal: called with the record and the batch of every refused update.
        process_group: as it was given; for another model later on.
    """

    def __init__(
        self,
        state: LearnerState,
        guard: Guard | None,
        *,
        schedulers: Sequence[Scheduler] = (),
        on_refusal: Callable[[StepRecord, Any], None] | None = None,
        process_group: ProcessGroup | Literal["auto"] | None = "auto",
    ) -> None:
        self.state = state
        self._process_group = process_group
        self.guard: Guard = Guard() if guard is None else guard
        self.schedulers: tuple[Scheduler, ...] = tuple(schedulers)
        self.on_refusal = on_refusal
        self._alarm = Alarm()
        self._check_guard()

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.state.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; the first one where there are several."""
        return self.state.optimizer

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """All optimizers."""
        return self.state.optimizers

    @property
    def loss(self) -> AnyLoss | None:
        """The loss; another one can be assigned between steps."""
        return self.state.objective.loss

    @loss.setter
    def loss(self, loss: AnyLoss | None) -> None:
        self.state.objective = Objective(loss, self.state.objective.forward)
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

    def rebuild(self, model: Models | None = None, optimizer: Optimizers | None = None) -> None:
        """Goes on with a changed world: a head that has grown, layers thawed, an optimizer made again.

            model.head = grown(model.head)
            learner.rebuild(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))

        What the guard has learned stays, counts too. Snapshots of before are dropped: there is no way back to another
        structure. A model whose weights alone were replaced needs no call: that is noticed.

        Args:
            model: the new model, or several; None for the present one, changed or not.
            optimizer: the new optimizer, or several; None for the present ones.

        Raises:
            ModelError: when they do not belong together, or the guard's trusted data does not fit; nothing has changed
                then.
            TransactionError: in the middle of a step.
        """
        if self.in_transaction:
            raise TransactionError("got rebuild in the middle of a step, wanted it between steps")
        state = self.state
        before = dict(vars(state))
        chosen = state.model if model is None else as_module(model)
        optimizers = state.optimizers if optimizer is None else as_optimizers(optimizer)
        ranks = state.ranks if model is None else ranks_of(modules_of(model), self._process_group)
        check_model(unwrapped(chosen))
        check_optimizers(unwrapped(chosen), optimizers)
        kept = None if state.snapshots is None else state.snapshots.contents()
        try:
            if state.snapshots is not None:
                state.snapshots.hold()
            state.replace(chosen, optimizers)
            state.ranks = ranks
            self._check_guard()
        except BaseException:
            vars(state).update(before)
            if state.snapshots is not None and kept is not None:
                state.snapshots.put_back(kept)
            raise
        if state.snapshots is not None:
            state.snapshots.prune()

    def current_guard(self) -> Guard:
        """The guard, checked against the model again where it, or its trusted data, is another one."""
        if (self.guard, self.guard.renewals) != self._checked_guard:
            self._check_guard()
        return self.guard

    def _check_guard(self) -> None:
        """Checks that the guard's trusted data fit the model, and are the same in all processes."""
        check_guard(self.guard, self.view(), self.state.ranks)
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
        """Everything needed to go on: model, optimizers, schedulers, guard, snapshots, scaler, counts, what the log has
        said of refusals, and what joined the transaction. Of frozen weights there is a fingerprint: what does not
        change is in no checkpoint.

        `taster.save_state` writes it as safetensors. The tensors of the model are the live ones, as in
        `torch.nn.Module.state_dict`. Asked in the middle of a step, by a signal handler for instance, it is the state
        before the step (copied): an update that has not been judged is in no checkpoint.
        """
        state = self.state
        found = (state.transaction or state).state_dicts()
        model, frozen = without_frozen(state.module, found["model"], state.backup.joined())
        own = {name: found[name] for name in ("optimizers", "also")}
        return {"model": model, "frozen": frozen, **own, **self.guard_state_dict()}

    def guard_state_dict(self) -> dict[str, Any]:
        """The part of `state_dict` that is neither the model's nor the optimizer's, for `load_guard_state_dict`: guard,
        snapshots, scaler, schedulers, counts and the alarm's part."""
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
            **LEARNER.mark(),
            "steps": progress.steps,
            "refusals": progress.refusals.state(),
            "counters": dict(progress.counters),
            "alarm": progress.alarm.state(),
            "guard": own["guard"],
            "scaler": own["scaler"],
            "snapshots": own["snapshots"],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the state of `state_dict` into a learner built in the same way, with the same frozen weights.

        Raises:
            CheckpointError: when parts are missing or belong to another learner; nothing has been loaded then.
        """
        own = self.state
        with AllOrNothing(own, self.guard, self.schedulers, state, {"model", "frozen", "optimizers", "also"}):
            for name, entries, places in (
                ("optimizers", state["optimizers"], own.optimizers),
                ("also", state["also"], own.also),
            ):
                if len(entries) != len(places):
                    raise CheckpointError(
                        f'got the state of {len(entries)} objects for "{name}", wanted that of {len(places)}: the '
                        "learner built with the same optimizers and also=[...]"
                    )
            own.module.load_state_dict(with_frozen(own.module, state["model"], state["frozen"]))
            # Copied, as they would otherwise go on writing into the caller's tensors.
            for optimizer, entry in zip(own.optimizers, state["optimizers"], strict=True):
                _check_kind(optimizer, entry)
                optimizer.load_state_dict(copy.deepcopy(entry))
            for companion, entry in zip(own.also, state["also"], strict=True):
                companion.load_state_dict(copy.deepcopy(entry))
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
        self.guard.load_state_dict(move_to_device(state["guard"], next(own.module.parameters()).device))
        if own.snapshots is not None and state["snapshots"] is not None:
            own.snapshots.load_state_dict(state["snapshots"])
        counters = state["counters"]
        if set(counters) != set(COUNTERS) or not all(type(n) is int and n >= 0 for n in counters.values()):
            raise CheckpointError(f"got counters {dict(counters)}, wanted whole numbers for {', '.join(COUNTERS)}")
        steps, refusals = state["steps"], RefusalRun.from_state(state["refusals"])
        # Files of taster 0.1 have none.
        alarm = AlarmState.from_state(state["alarm"]) if "alarm" in state else AlarmState()
        if type(steps) is not int or steps < 0:
            raise CheckpointError(f"got steps {steps!r}, wanted a whole number of at least 0")
        if own.scaler is not None and state["scaler"]:
            own.scaler.load_state_dict(state["scaler"])
        if len(state["schedulers"]) != len(self.schedulers):
            raise CheckpointError(
                f"got the state of {len(state['schedulers'])} schedulers, wanted that of {len(self.schedulers)}: hand "
                "over the same ones, Learner(schedulers=[...])"
            )
        for scheduler, entry in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(copy.deepcopy(entry))
        counts = MappingProxyType({name: counters[name] for name in COUNTERS})
        own.progress = Progress(steps, refusals, counts, alarm)

    def alarm(self, record: StepRecord, *batches: Batch | ClientUpdates) -> None:
        """Logs what there is to say of a step, and hands a refusal to `on_refusal`, with each batch of the step, or
        None where it had none."""
        if self.state.ranks.rank == 0:  # one process speaks for all
            self._alarm.hear(self.state.progress.alarm, record)
            for gate in self.guard.gates:
                if isinstance(advice := getattr(gate, "advice", None), str):
                    self._alarm.advise(stage_name(gate), advice)
            if self.counters["steps"] == _MANY and not self.counters["committed"] and record.attempts:
                fresh = any(not o.state and not isinstance(o, torch.optim.SGD) for o in self.optimizers)
                self._alarm.advise("optimizer", _NOTHING_LEARNED if fresh else "")
        refused = not record.verdict.committed or record.attempts > 1
        if refused and self.on_refusal is not None:
            for batch in batches or (None,):
                self.on_refusal(record, batch)

    def validate_batch(self, batch: Batch) -> None:
        """Refuses what no caller can have meant; values that are not finite are the guard's business.

        Raises:
            BatchError: for samples out of `input_range`.
        """
        if self.input_range is None:
            return
        samples = {path: tensor for path, tensor in tensors_in(batch.x, "x") if not is_label(path)}
        floating = [t for t in samples.values() if t.is_floating_point() and t.numel()]
        if not floating:
            raise BatchError(
                f"got samples of dtype {next((t.dtype for t in samples.values()), None)}, wanted floating point in "
                f"{list(self.input_range)}: images of whole numbers are to be divided by 255; for other data leave "
                "input_range out"
            )
        bounds = to_host(*(bound for t in floating for bound in torch.aminmax(t.detach())))
        low, high = min(bounds[::2]), max(bounds[1::2])
        # Comparisons with NaN are false, so a NaN passes here and is refused by the guarded step.
        if (low < self.input_range[0] and low != -float("inf")) or (
            high > self.input_range[1] and high != float("inf")
        ):
            raise BatchError(
                f"got samples from {low:g} to {high:g}, wanted {list(self.input_range)}; normalise inside the model, "
                "or give Learner(input_range=...) the range of your data (None for any)"
            )


def _check_kind(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Raises CheckpointError for the state of another kind of optimizer, which torch would load and fail at later."""
    own = set(getattr(optimizer, "defaults", {}))
    found = {key for group in saved["param_groups"] for key in group} - {"params", "initial_lr", "swa_lr"}
    missing, other = own - found, found - own
    if missing and other:
        raise CheckpointError(
            f"got the state of another optimizer, with {', '.join(sorted(other))} and without "
            f"{', '.join(sorted(missing))}; wanted that of a {type(optimizer).__name__}"
        )
