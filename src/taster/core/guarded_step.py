"""One step that the user's own code makes, and its judgement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.finite import check_finite, without_samples
from taster.core.guard import Guard, ScreenedBatch
from taster.core.guarded_training import GuardedTraining
from taster.core.module_tree import named_tensors
from taster.core.param_vectors import bits_differ, global_norm_tensor
from taster.core.ranks import mean
from taster.core.step import Clock, judge, picklable, screen_batch, transform
from taster.core.step_record import StepRecord
from taster.core.transaction import Transaction
from taster.core.types import Tensors
from taster.core.verdict import COMMIT, Verdict, most_severe, reject
from taster.core.wrapped import innermost, parameters_of
from taster.errors import GuardError, LossError, ModelError, RankError, TransactionError


class GuardedStep:
    """One step of `taster.Guarded`.

    Attributes:
        loss: to be set by the block, for the record and for gates that watch it; a closure's is found by itself.
        record: what became of the step, once the block is over.
    """

    def __init__(self, guarded: GuardedTraining, batch: Batch | None, *, trusted: bool) -> None:
        self.loss: float | Tensor | None = None
        self.record: StepRecord | None = None
        self._guarded = guarded
        self._state = guarded.state
        self._given = batch
        self._trusted = trusted
        self._batches: list[Batch] = []
        self._screened: list[ScreenedBatch[Batch]] = []
        self._clock = Clock()
        self._hooks: list[Any] = []
        self._verdict = COMMIT
        self._gradient: Tensors = {}
        self._squares_before = self._squares_after = 0.0
        self._updates = 0
        self._scale = 1.0
        self._overflowed = False
        self._entered = False

    @property
    def batch(self) -> Any:
        """What the screens have left of the batch, in the form in which it was given; all of it where they have left
        nothing, since whatever the block does then is undone."""
        if self._given is None:
            return None
        return _left(self._given, self._screened[0] if self._screened else None)

    @property
    def weights(self) -> Tensor | None:
        """[n], the weights that screens give to the samples of `batch`: for the block's own loss to heed. None weighs
        them alike."""
        return self._screened[0].weights if self._screened else None

    @property
    def updated(self) -> bool:
        """Whether an optimizer has made an update in the block so far."""
        return self._updates > 0

    @property
    def refused(self) -> bool:
        """Whether the step was undone, or is going to be.

        Raises:
            TransactionError: before the step has begun.
        """
        if not self._entered:
            raise TransactionError(
                "got a step that has not begun, wanted it in a block: with guarded.step() as step: ..."
            )
        if self.record is not None:
            return not self.record.verdict.committed
        if self._state.transaction is self._transaction:
            self._state.readings.read()
        return not self._verdict.committed

    def further(self, x: Any, y: Any = None) -> Any:
        """A further batch of this step, for a block that accumulates gradients over several: what the screens leave of
        it, as `batch` is of the first. Where they leave nothing of one, the whole step is refused.

        Raises:
            BatchError: for a malformed batch.
            GuardError: for a screen that weights samples: `weights` is of one batch.
        """
        batch = x if isinstance(x, Batch) else Batch(x, y)
        self._guarded.validate_batch(batch)
        screened = self._screen(batch)
        if screened.weights is not None:
            raise GuardError("got screens that weight samples of several batches, wanted some that drop or correct")
        return _left(batch, screened)

    def __enter__(self) -> GuardedStep:
        guarded, state = self._guarded, self._state
        if self._entered:
            raise TransactionError("got a step that was made before, wanted guarded.step() anew for each")
        self._entered = True
        guard = guarded.current_guard()
        self._stages = Guard(transforms=guard.transforms) if self._trusted else guard
        if self._given is not None:
            guarded.validate_batch(self._given)
        elif self._stages.screens:
            raise GuardError("got a guard with screens and a step without its batch, wanted step(batch)")
        self._transaction = Transaction(state, guard)
        try:
            self._transaction.claim()
            if self._given is not None:
                self._screen(self._given)
            self._transaction.open()
            self._clock.lap("transaction")
            self._scale = 1.0 if state.scaler is None else state.scaler.get_scale()
            self._names = {id(p): name for name, p in named_tensors(state.module)[0].items()}
            for optimizer in state.optimizers:
                self._hooks.append(innermost(optimizer).register_step_pre_hook(self._before_update))
            return self
        except BaseException as error:
            self._undo(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._clock.lap("update")
                self._judge()
            else:
                self._undo(error)
        except BaseException as failure:
            self._undo(failure)
            raise
        finally:
            self._remove_hooks()

    def _screen(self, batch: Batch) -> ScreenedBatch[Batch]:
        """What the screens leave of a batch of this step; where that is nothing, the step is refused."""
        place = len(self._batches)

        def refuse() -> None:
            self._screened[place] = without_samples(self._screened[place])
            self._note_empty(self._screened[place])

        screened = screen_batch(self._state, batch, self._stages.screens, self._clock, refuse)
        self._batches.append(batch)
        self._screened.append(screened)
        self._note_empty(screened)
        return screened

    def _judge(self) -> None:
        """Judges what the block has done, and ends the transaction."""
        state, transaction, given = self._state, self._transaction, self._batches
        told = state.ranks.together("the end of the step", self._outcome)
        if len({updates for _, _, updates in told}) > 1:
            raise RankError(f"got {[n for _, _, n in told]} updates in the processes, wanted as many in each")
        seen = self._screened
        state.changed()
        loss = mean([own for own, _, _ in told])
        verdict = most_severe(own for _, own, _ in told)
        if verdict.committed:
            verdict = check_finite(loss, None)
        judged = verdict.committed
        if judged:
            learned = [screened.batch for screened in seen]
            verdict = judge(
                state,
                self._stages,
                learned[0] if len(learned) == 1 else None,
                self._gradient,
                loss,
                transaction.before,
                self._clock,
                samples=sum(map(len, learned)),
            )
        # What overflowed only for the scale that it had lowers the scale; nothing else that is refused does.
        dropped = any(screened.empty for screened in seen)
        lowered = self._overflowed and (loss is None or math.isfinite(loss)) and not dropped
        self._remove_hooks()
        verdict = transaction.apply_verdict(verdict, keep_scaler=lowered)
        self._clock.lap("apply_verdict")
        made = self._updates > 0
        record = StepRecord(
            step=state.steps,
            samples=sum(map(len, given)),
            loss=loss,
            verdict=verdict,
            dropped=sum(screened.dropped for screened in seen),
            corrected=sum(screened.corrected for screened in seen),
            gradient_norm_before=math.sqrt(self._squares_before) if made else None,
            gradient_norm_after=math.sqrt(self._squares_after) if made else None,
            attempts=int(judged and made),  # a batch whose gradient is only accumulated says nothing of updates
            trusted=self._trusted,
        )
        transaction.commit(record)
        self._clock.lap("observe")
        self.record = replace(record, seconds=self._clock.seconds())
        self._guarded.alarm(self.record, *given)

    def _outcome(self) -> tuple[float | None, Verdict, int]:
        """What this process has to tell at the end of the block: its loss, whether anything was not finite, and how
        many updates were made."""
        state = self._state
        given = self.loss.detach() if isinstance(self.loss, Tensor) else self.loss
        if isinstance(given, Tensor) and given.numel() != 1:
            raise LossError(f"got step.loss of shape {list(given.shape)}, wanted one number")
        if not self._updates:
            self._refuse_hidden_updates()
        found: list[float] = []
        if isinstance(given, Tensor):
            state.readings.add([given.reshape(())], found.extend)
        state.readings.read()
        if state.scaler is not None and self._updates < len(state.optimizers):
            scale = state.scaler.get_scale()
            if scale < self._scale:
                self._overflowed = True
                self._note(reject(f"the gradient overflowed at a scale of {self._scale:g}", "finite_values"))
        loss = found[0] if found else given
        return None if loss is None else float(loss), picklable(self._verdict), self._updates

    def _before_update(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Called right before an optimizer makes an update."""
        if self._state.transaction is not self._transaction:  # a hook that an interrupt has left behind
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._transform(optimizer)
            return None

        def with_transforms() -> Any:
            with torch.enable_grad():
                found = closure()
            if self.loss is None and found is not None:
                self.loss = found.detach() if isinstance(found, Tensor) else found
            self._transform(optimizer)
            return found

        if len(args) > 1:
            return (args[0], with_transforms, *args[2:]), kwargs
        return args, {**kwargs, "closure": with_transforms}

    @torch.no_grad()
    def _transform(self, optimizer: torch.optim.Optimizer) -> None:
        """Checks an optimizer's gradient, and changes it by the transforms."""
        self._updates += 1
        scale = getattr(optimizer, "grad_scale", None)  # of fused optimizers, which unscale by themselves
        params: dict[str, Any] = {
            self._names[id(p)]: p for p in parameters_of(optimizer) if p.grad is not None and id(p) in self._names
        }
        gradient = {name: p.grad if scale is None else p.grad / scale for name, p in params.items()}
        readings = self._state.readings
        norm = global_norm_tensor(gradient)
        readings.add([norm], self._note_norm_before)
        if self._stages.transforms:
            readings.read()  # they compute with finite gradients alone
        if self._stages.transforms and self._verdict.committed:
            gradient = transform(gradient, self._stages.transforms, self._transaction.before, self._clock)
            for name, parameter in params.items():
                parameter.grad = gradient[name] if scale is None else gradient[name] * scale
            norm = global_norm_tensor(gradient)
        readings.add([norm], self._note_norm_after)
        self._gradient.update(gradient)

    def _note_norm_before(self, norm: list[float]) -> None:
        self._squares_before += norm[0] ** 2
        finite = check_finite(None, norm[0])
        self._overflowed = self._overflowed or not finite.committed
        self._note(finite)

    def _note_norm_after(self, norm: list[float]) -> None:
        self._squares_after += norm[0] ** 2
        self._note(check_finite(None, norm[0]))

    def _note_empty(self, screened: ScreenedBatch[Batch]) -> None:
        if screened.empty:
            self._note(reject(screened.reason, screened.stage))

    def _note(self, verdict: Verdict) -> None:
        if self._verdict.committed and not verdict.committed:
            self._verdict = verdict

    def _refuse_hidden_updates(self) -> None:
        """Raises ModelError, once readings are read, where parameters have changed though no optimizer here has made a
        step."""
        before, now = self._state.backup.params, named_tensors(self._state.module)[0]
        names = [name for name in now if name in before and before[name].data_ptr() != now[name].data_ptr()]
        if names:
            differ = [bits_differ(before[name], now[name]) for name in names]
            self._state.readings.add(differ, lambda found: _refuse_hidden(names, found))

    def _undo(self, error: BaseException) -> None:
        self._remove_hooks()
        self._transaction.__exit__(type(error), error, error.__traceback__)

    def _remove_hooks(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()


def _left(given: Batch, screened: ScreenedBatch[Batch] | None) -> Any:
    """What screens have left, in the form in which it was given; all of it where that is nothing."""
    return (given if screened is None or screened.empty else screened.batch).data


def _refuse_hidden(names: Sequence[str], changed: Sequence[bool]) -> None:
    for name, differs in zip(names, changed, strict=True):
        if differs:
            raise ModelError(
                f"got a step that changed {name} by none of the optimizers handed over: an engine that hides its "
                "optimizer keeps state that could not be undone; wanted that optimizer, Guarded(model, [optimizer])"
            )
