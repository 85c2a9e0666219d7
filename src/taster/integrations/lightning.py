"""A guard around Lightning's training loop (extra `lightning`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from taster.core.guard import Guard, ScreenedBatch
from taster.core.learner import Learner
from taster.core.losses import Loss
from taster.core.snapshots import SnapshotBuffer
from taster.core.state import LearnerState
from taster.core.types import Batch, StepRecord, Tensors
from taster.errors import BatchError, GuardError, ModelError


class GuardCallback(Callback):
    """Every update of a Lightning module with automatic optimization passes a guard.

        trainer = Trainer(callbacks=[GuardCallback(taster.guard(probe))])

    The module's own `training_step`, its precision, its gradient clipping and its schedulers stay in force: the guard
    is put around the optimizer's step. A refused update is undone, and counts as a step. The guard's state goes into
    Lightning's checkpoints with the callback's. What they hold has been judged; only one of weights alone
    (`save_weights_only`), written by a signal's handler in the middle of a step, holds what is there.

    Args:
        guard: the stages each batch passes. Screens change the batch before the module sees it; they may drop and
            correct samples, not weight them.
        loss: of (output, y), for stages that compute losses of their own.
        samples: what a batch of the data loader is, as (x, y); by default its two parts.
        input_range, snapshots, on_refusal: as in `taster.Learner`; the guard sees a model through its `forward`.

    Attributes:
        records: of the last fit.

    Raises (when fitting begins):
        GuardError: for what cannot be guarded this way: several optimizers, manual optimization, gradients accumulated
            over batches, float16, several processes.
    """

    def __init__(
        self,
        guard: Guard,
        loss: Loss = torch.nn.functional.cross_entropy,
        *,
        samples: Callable[[Any], tuple[Tensor, Tensor]] | None = None,
        input_range: tuple[float, float] | None = (0.0, 1.0),
        snapshots: SnapshotBuffer | None = None,
        on_refusal: Callable[[StepRecord, Any], None] | None = None,
    ) -> None:
        self.guard = guard
        self.records: list[StepRecord] = []
        self._loss = loss
        self._samples = samples
        self._options: dict[str, Any] = {"input_range": input_range, "snapshots": snapshots, "on_refusal": on_refusal}
        self._learner: Learner | None = None
        self._batch: Any = None
        self._loaded: dict[str, Any] | None = None
        self._undo: Callable[[], None] = lambda: None

    @property
    def learner(self) -> Learner:
        """What it guards; its counters say what became of the steps.

        Raises:
            GuardError: before fitting has begun.
        """
        if self._learner is None:
            raise GuardError("got no learner yet, wanted one: it is made when fitting begins")
        return self._learner

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts itself around the optimizer's step."""
        _check(trainer, pl_module)
        (optimizer,) = trainer.optimizers
        try:
            before = self._learner
            self._learner = learner = Learner(pl_module, optimizer, self._loss, self.guard, **self._options)
            if before is not None:  # a further fit with the same guard goes on counting
                learner.state.progress = before.state.progress
        except ModelError as error:
            raise GuardError(f"this module cannot be guarded: {error}") from error
        self.records = []
        if self._loaded is not None:
            learner.load_guard_state_dict(self._loaded)
            self._loaded = None
        own_step = optimizer.step
        inside = False

        def step(closure: Callable[[], Any] | None = None) -> Any:
            nonlocal inside
            if inside:  # the learner's own call, once the gradient is there
                return own_step()
            if closure is None:
                raise GuardError(
                    "got optimizer.step() without Lightning's closure, which no guard would see; wanted the module's "
                    "optimizer_step left as it is, or step(closure=optimizer_closure)"
                )
            inside = True
            try:
                result, record = self._step(learner, closure)
            finally:
                inside = False
            self.records.append(record)
            return result

        self._undo = lambda: setattr(optimizer, "step", own_step)
        optimizer.step = step  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers what is about to be learned."""
        self._batch = batch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the optimizer go."""
        self._undo()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._undo()

    def state_dict(self) -> dict[str, Any]:
        """That of the guard and the history, and the count of steps."""
        return {} if self._learner is None else self._learner.guard_state_dict()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where a checkpoint is asked for in the middle of a step, by a signal say, it is of the state before it."""
        if self._learner is not None and self._learner.in_transaction:
            state = self._learner.state_dict()
            checkpoint["state_dict"], checkpoint["optimizer_states"] = state["model"], state["optimizers"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Taken up when fitting begins."""
        self._loaded = state_dict or None

    def _step(self, learner: Learner, closure: Callable[[], Any]) -> tuple[Any, StepRecord]:
        batch, result, called = self._samples_of_batch(), None, False

        def compute_gradient(screened: ScreenedBatch[Batch], state: LearnerState) -> tuple[Tensors, float | None]:
            nonlocal result, called
            called = True
            self._hand_over(screened, batch)
            state.optimizer.zero_grad()
            result = closure()
            return {name: p.grad for name, p in state.own_parameters().items() if p.grad is not None}, (
                None if result is None else float(result)
            )

        record = learner.run(batch, compute_gradient)
        if not called:
            with learner.dry_run():  # Lightning requires that the closure is called
                result = closure()
        return result, record

    def _samples_of_batch(self) -> Batch:
        parts = self._batch if self._samples is None else self._samples(self._batch)
        if not isinstance(parts, (list, tuple)) or len(parts) != 2:
            raise BatchError(
                f"got a batch that is a {type(parts).__name__}, wanted two parts, samples and labels; say which they "
                "are: GuardCallback(samples=lambda batch: (batch['image'], batch['label']))"
            )
        return Batch(*parts)

    def _hand_over(self, screened: ScreenedBatch[Batch], batch: Batch) -> None:
        """Puts what the screens have let through where the module will find it."""
        if screened.weights is not None:
            raise GuardError(
                "got screens that weight samples, wanted some that drop or correct: the loss is the module's"
            )
        if screened.batch is batch or (screened.batch.x is batch.x and screened.batch.y is batch.y):
            return
        if self._samples is not None or not isinstance(self._batch, list):
            raise GuardError(
                f"got screens that change a batch of {type(self._batch).__name__}, which cannot be changed in place; "
                "wanted the list of two tensors that the default collate function makes"
            )
        self._batch[:] = [screened.batch.x, screened.batch.y]


def _check(trainer: Trainer, module: LightningModule) -> None:
    faults = []
    if not module.automatic_optimization:
        faults.append("manual optimization (there `taster.Learner.step` can be called in training_step)")
    if len(trainer.optimizers) != 1:
        faults.append(f"{len(trainer.optimizers)} optimizers, wanted one over one module")
    if trainer.accumulate_grad_batches != 1:
        faults.append("accumulate_grad_batches, wanted 1: the guard judges the batch of an update as a whole")
    if trainer.world_size != 1:
        faults.append(f"{trainer.world_size} processes, wanted one")
    if trainer.precision in ("16-mixed", "16-true"):
        faults.append(f"precision {trainer.precision}, wanted bf16-mixed or 32-true")
    if faults:
        raise GuardError("GuardCallback: got " + "; ".join(faults))
