"""A guard around Lightning's training loop (extra `lightning`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from torch import Tensor, distributed
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim.swa_utils import AveragedModel

from taster.core.backup_records import copied_value
from taster.core.batch import Batch
from taster.core.guard import Guard, check_is_guard
from taster.core.guarded import Guarded
from taster.core.guarded_step import GuardedStep
from taster.core.losses import AnyLoss
from taster.core.objective import ForwardFn
from taster.core.snapshots import SnapshotBuffer
from taster.core.state import Companion
from taster.core.step_record import StepRecord
from taster.errors import BatchError, GuardError, ModelError


class GuardCallback(Callback):
    """Every step of a Lightning module passes a guard.

        trainer = Trainer(callbacks=[GuardCallback(taster.guard(probe))])

    The module's own `training_step`, optimizers, precision, gradient clipping and schedulers stay in force, with
    automatic and with manual optimization, on one device or under "ddp". A step is what Lightning does from one update
    to the next: a batch; with `accumulate_grad_batches` all that are accumulated, judged once; with manual optimization
    everything up to the end of the `training_step` in which an optimizer has made an update, however many there are.
    It is a step of `taster.Guarded`: a batch is refused as a whole and never tried again in part
    (`retry_low_score_half`).

    A refused step is undone before any other callback sees the model, whatever the order of the callbacks, and counts
    as a step: schedulers that Lightning steps go on, those that `training_step` steps are undone with the rest. An
    exception, or a stop before accumulated gradients are used, leaves the model as it was before the step.

    The guard's state goes into Lightning's checkpoints with the callback's. A checkpoint written in the middle of a
    step holds what was before the step; only one of weights alone (`save_weights_only`), written by a signal's handler,
    holds what is there.

    Args:
        guard: the stages each step passes. Screens change each batch before the module sees it; they may drop and
            correct samples, not weight them.
        loss: of (output, y), for stages that compute losses of their own; as in `taster.Learner`.
        samples: takes a batch of the data loader apart, into (x, y) or a `Batch`; then screens cannot change it. None
            takes a list or tuple of two as samples and labels, and anything else whole. One that returns None hands no
            batch over, for guards that have no use for it.
        forward: as in `taster.Learner`; by default stages run the module's `forward`.
        also: as in `taster.Guarded`. The averages of Lightning's `WeightAveraging` join by themselves where the guard
            rewinds.
        input_range, snapshots, on_refusal: as in `taster.Learner`; of a step with several batches `on_refusal` is
            called with each of them.

    Attributes:
        records: of the last fit.

    Raises (when fitting begins):
        GuardError: for what cannot be guarded: parameters or optimizers that are sharded over processes (FSDP,
            DeepSpeed), and modules that `taster.Guarded` refuses.
    """

    def __init__(
        self,
        guard: Guard,
        loss: AnyLoss | None = torch.nn.functional.cross_entropy,
        *,
        samples: Callable[[Any], Any] | None = None,
        forward: ForwardFn | None = None,
        also: Sequence[Companion] = (),
        input_range: tuple[float, float] | None = None,
        snapshots: SnapshotBuffer | None = None,
        on_refusal: Callable[[StepRecord, Any], None] | None = None,
    ) -> None:
        check_is_guard(guard)
        self.guard = guard
        self.records: list[StepRecord] = []
        self._samples = samples
        self._also = tuple(also)
        self._options: dict[str, Any] = {
            "loss": loss,
            "forward": forward,
            "input_range": input_range,
            "snapshots": snapshots,
            "on_refusal": on_refusal,
        }
        self._guarded: Guarded | None = None
        self._loaded: dict[str, Any] | None = None
        self._wrapped: list[Any] = []
        self._step: GuardedStep | None = None
        self._losses: list[Tensor] = []
        self._schedulers: list[tuple[Any, dict[str, Any]]] = []
        self._global_step = 0

    @property
    def guarded(self) -> Guarded:
        """What it guards; its counters say what became of the steps.

        Raises:
            GuardError: before fitting has begun.
        """
        if self._guarded is None:
            raise GuardError("got no guarded model yet, wanted one: it is made when fitting begins")
        return self._guarded

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts itself around Lightning's optimization."""
        _check(trainer)
        before = self._guarded
        try:
            self._guarded = guarded = Guarded(
                pl_module,
                trainer.optimizers,
                self.guard,
                also=[*self._also, *_averages(trainer, self.guard)],
                scaler=getattr(trainer.precision_plugin, "scaler", None),
                process_group=distributed.group.WORLD if trainer.world_size > 1 else None,
                **self._options,
            )
        except ModelError as error:
            raise GuardError(f"this module cannot be guarded: {error}") from error
        if before is not None:  # a further fit with the same guard goes on counting
            guarded.state.progress = before.state.progress
        self.records = []
        if self._loaded is not None:
            guarded.load_guard_state_dict(self._loaded)
            self._loaded = None
        # No hook lies between the optimizers' updates and the schedulers, nor before all other callbacks.
        epoch = trainer.fit_loop.epoch_loop
        self._wrap(epoch.automatic_optimization, lambda run, *args: self._learn(trainer, run, *args))
        self._wrap(epoch.manual_optimization, lambda run, *args: self._learn(trainer, run, *args))
        self._wrap(epoch, self._run_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets Lightning's loops go."""
        self._unwrap()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._unwrap()

    def state_dict(self) -> dict[str, Any]:
        """That of the guard and the history, and the count of steps."""
        return {} if self._guarded is None else self._guarded.guard_state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Taken up when fitting begins."""
        self._loaded = state_dict or None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where a checkpoint is asked for in the middle of a step, by a signal say, it is of the state before it."""
        transaction = None if self._guarded is None else self._guarded.state.transaction
        if transaction is None:
            return
        before = transaction.state_dicts()
        # `WeightAveraging` has put the average in the model's place, if it was asked first.
        place = "current_model_state" if "current_model_state" in checkpoint else "state_dict"
        checkpoint[place] = {name: before["model"][name] for name in checkpoint[place] if name in before["model"]}
        checkpoint["optimizer_states"] = before["optimizers"]
        plugin = type(trainer.precision_plugin).__qualname__
        if plugin in checkpoint and before["scaler"] is not None:
            checkpoint[plugin] = before["scaler"]
        if self._schedulers:
            checkpoint["lr_schedulers"] = [copied_value(state) for _, state in self._schedulers]

    def _wrap(self, loop: Any, around: Callable[..., Any]) -> None:
        run = loop.run
        loop.run = lambda *args: around(run, *args)
        self._wrapped.append(loop)

    def _unwrap(self) -> None:
        while self._wrapped:
            vars(self._wrapped.pop()).pop("run", None)

    def _run_epoch(self, run: Callable[..., Any], *args: Any) -> Any:
        """An epoch, in which no step is left open."""
        try:
            found = run(*args)
            self._undo(GuardError("the epoch ended before the gradients that were accumulated had been used"))
        except BaseException as error:
            self._undo(error)
            raise
        return found

    def _learn(self, trainer: Trainer, run: Callable[..., Any], *args: Any) -> Any:
        """What Lightning does with one batch, as a step or part of one."""
        arguments: dict[str, Any] = args[-1]
        try:
            step = self._begin(trainer, arguments)
            outputs = run(*args)
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
            if isinstance(loss, Tensor) and loss.numel() == 1:
                self._losses.append(loss.detach().reshape(()))
            if self._complete(trainer, step):
                self._end(trainer, step)
        except BaseException as error:
            self._undo(error)
            raise
        return outputs

    def _begin(self, trainer: Trainer, arguments: dict[str, Any]) -> GuardedStep:
        """Opens a step, or goes on with the one that is open, and puts what screens leave of the batch in its place."""
        batch = self._batch(arguments)
        step = self._step
        if step is None:
            guarded = self.guarded
            if batch is None and self.guard.screens:
                raise GuardError(
                    "got a guard with screens and no batch for them, wanted training_step(batch, ...) and samples "
                    "that return what is in it"
                )
            if any(own is not found for own, found in zip_longest(guarded.optimizers, trainer.optimizers)):
                guarded.rebuild(optimizer=trainer.optimizers)  # a callback has made others
            manual = not trainer.lightning_module.automatic_optimization
            self._losses, self._global_step = [], trainer.global_step
            self._schedulers = [
                (config.scheduler, copied_value(config.scheduler.state_dict()))
                for config in (trainer.lr_scheduler_configs if manual else ())
            ]
            step = guarded.step(batch)
            step.__enter__()
            self._step = step
            left = step.batch
        else:
            left = None if batch is None else step.further(batch)
        if step.weights is not None:
            raise GuardError(
                "got screens that weight samples, wanted some that drop or correct: the loss is the module's"
            )
        if batch is not None:
            self._hand_over(arguments, batch, left)
        return step

    def _complete(self, trainer: Trainer, step: GuardedStep) -> bool:
        """Whether the step is over with this batch."""
        loop = trainer.fit_loop
        if not trainer.lightning_module.automatic_optimization:
            made = step.updated or trainer.global_step > self._global_step  # the latter where a scaler left it out
            return made or loop.epoch_loop._num_ready_batches_reached()
        # In a pass that only gathers batch-norm statistics (StochasticWeightAveraging) each batch is a step.
        return loop._skip_backward or not loop._should_accumulate()

    def _end(self, trainer: Trainer, step: GuardedStep) -> None:
        """Has the step judged."""
        if self._losses:
            # Lightning has divided those of automatic optimization by the number of batches already.
            total = torch.stack(self._losses).sum()
            step.loss = total if trainer.lightning_module.automatic_optimization else total / len(self._losses)
        step.__exit__(None, None, None)
        self._step = None
        if step.record is not None:
            self.records.append(step.record)
        if step.refused:
            self._put_schedulers_back()

    def _undo(self, error: BaseException) -> None:
        """Undoes the step that is open, if there is one."""
        step, self._step = self._step, None
        if step is None:
            return
        step.__exit__(type(error), error, error.__traceback__)  # nothing, if it is over and `on_refusal` has failed
        if step.record is None or step.refused:
            self._put_schedulers_back()

    def _put_schedulers_back(self) -> None:
        for scheduler, state in self._schedulers:
            scheduler.load_state_dict(state)

    def _batch(self, arguments: dict[str, Any]) -> Batch | None:
        """The batch as the guard sees it; None where `training_step` draws it itself, or `samples` gives none."""
        if "batch" not in arguments:
            return None
        batch = arguments["batch"]
        parts = batch if self._samples is None else self._samples(batch)
        if parts is None or isinstance(parts, Batch):
            return parts
        try:
            return Batch(*parts) if _is_pair(parts) else Batch(parts)
        except BatchError as error:
            raise BatchError(
                f"{error}; or say which they are: GuardCallback(samples=lambda batch: (batch.image, batch.label)), or "
                "samples=lambda batch: None for a guard that has no use for them"
            ) from error

    def _hand_over(self, arguments: dict[str, Any], batch: Batch, left: Any) -> None:
        """Puts what the screens have let through where the module will find it."""
        if left is batch.data:
            return
        if self._samples is not None:
            raise GuardError(
                "got screens that change a batch and samples=..., after which they cannot be put back into it; wanted "
                "samples=None and a data loader whose batches are samples and labels, or one nested value"
            )
        given = arguments["batch"]
        if not _is_pair(given):
            arguments["batch"] = left
        elif isinstance(given, list):
            given[:] = [left.x, left.y]  # in place: other callbacks see it too
        else:
            arguments["batch"] = type(given)((left.x, left.y))


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, (list, tuple)) and len(batch) == 2 and not hasattr(batch, "_fields")


def _averages(trainer: Trainer, guard: Guard) -> list[Companion]:
    """The averages of weights that callbacks keep: what a rewind takes back is in them too. A refused step never is."""
    if not guard.max_rewind:
        return []
    kept = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [average for average in kept if isinstance(average, AveragedModel)]


def _check(trainer: Trainer) -> None:
    strategy = trainer.strategy
    name = type(strategy).__name__
    whole = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy))
    if not whole or isinstance(strategy, (DeepSpeedStrategy, XLAStrategy)):
        raise GuardError(
            f"GuardCallback: got {name}, under which no process has the whole model and its optimizer, so that no step "
            'could be undone; wanted Trainer(strategy="ddp"), or one device'
        )
    if getattr(strategy, "_ddp_comm_state", None) is not None:
        raise GuardError(
            "GuardCallback: got DDPStrategy(ddp_comm_state=...), which carries what it learned from refused gradients "
            "into later steps; wanted none, or a ddp_comm_hook without state"
        )
    if any(isinstance(optimizer, ZeroRedundancyOptimizer) for optimizer in trainer.optimizers):
        raise GuardError(
            "GuardCallback: got ZeroRedundancyOptimizer, whose state is sharded over processes; wanted a plain one"
        )
