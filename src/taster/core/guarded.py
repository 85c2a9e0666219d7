"""Your own step, judged: a guard around whatever code makes an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.guarded_step import GuardedStep
from taster.core.guarded_training import GuardedTraining
from taster.core.loading import Scheduler
from taster.core.losses import AnyLoss
from taster.core.objective import ForwardFn, Objective
from taster.core.ranks import ProcessGroup
from taster.core.snapshots import SnapshotBuffer
from taster.core.state import Companion
from taster.core.step_record import StepRecord
from taster.core.training_state import Models, Optimizers, training_state


class Guarded(GuardedTraining):
    """A guard around steps that your own code makes.

        guarded = taster.Guarded(model, optimizer, taster.guard(probe))
        for batch in loader:
            with guarded.step() as step:
                loss = compute_loss(model, batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            if step.refused:
                print(step.record.verdict.reason)

    Whatever happens inside the `with` block is one step: several backward passes, several optimizers, a `GradScaler`,
    a closure. At its end gates judge the model; what they refuse is undone as in `taster.Learner`, and so is
    everything if the block raises. Transforms change the gradient right before an optimizer uses it. Screens need the
    batch: `guarded.step(batch)` gives what they have left of it as `step.batch`. What a guard would try again with a
    part of the batch (`retry_low_score_half`) is refused as a whole: only `taster.Learner` can make a step twice.

    Args:
        model: the module; or several, as a list or a dictionary, that are trained together.
        optimizer: or several.
        guard: the stages that each step passes; `Guard()` lets everything through.
        loss: of (output, y) or (output, batch), for stages that compute losses of their own; as in `taster.Learner`.
        forward: as in `taster.Learner`, for stages that run the model.
        also: what else joins the transaction, a moving average of the weights say: modules, and whatever has
            `state_dict` and `load_state_dict`.
        scaler: the gradient scaler, if the step uses one.
        snapshots, schedulers, input_range, on_refusal, process_group: as in `taster.Learner`.

    Raises:
        ModelError: for models and optimizers that do not belong together, or that no guard can undo.
        SnapshotError: when the guard may rewind further than the snapshots reach back.
    """

    def __init__(
        self,
        model: Models,
        optimizer: Optimizers,
        guard: Guard | None = None,
        *,
        loss: AnyLoss | None = None,
        forward: ForwardFn | None = None,
        snapshots: SnapshotBuffer | None = None,
        schedulers: Sequence[Scheduler] = (),
        also: Companion | Sequence[Companion] = (),
        input_range: tuple[float, float] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        on_refusal: Callable[[StepRecord, Any], None] | None = None,
        process_group: ProcessGroup | Literal["auto"] | None = "auto",
    ) -> None:
        state = training_state(
            model,
            optimizer,
            Objective(loss, forward),
            guard,
            snapshots=snapshots,
            process_group=process_group,
            also=also,
            scaler=scaler,
            input_range=input_range,
        )
        super().__init__(state, guard, schedulers=schedulers, on_refusal=on_refusal, process_group=process_group)

    def step(self, x: Any = None, y: Any = None, *, trusted: bool = False) -> GuardedStep:
        """A context in which one step is made.

        Args:
            x, y: the batch, if screens are to see it and refused ones are to be kept: samples and labels, a `Batch`, or
                a nested value that holds everything.
            trusted: the batch passes no screen and no gate.

        Raises (on entering):
            BatchError: for a malformed batch.
            GuardError: for a guard with screens and no batch.
            TransactionError: for a step inside another.
        """
        batch = None if x is None else x if isinstance(x, Batch) else Batch(x, y)
        return GuardedStep(self, batch, trusted=trusted)
