"""All or nothing: one transaction a step, from before the first update to the guard's observation."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any

import torch

from taster.core.backup import reset_momentum
from taster.core.backup_records import copied_value
from taster.core.functional_model import in_view, set_in_view
from taster.core.guard import Guard
from taster.core.host import Readings
from taster.core.state import LearnerState
from taster.core.step_record import StepRecord
from taster.core.verdict import Action, Verdict
from taster.core.view import View
from taster.errors import TransactionError


class Transaction:
    """One step. Left without `commit`, or by an exception from any line, it undoes everything, the guard's state too.

        with Transaction(state, guard) as transaction:
            transaction.claim()
            ...                                        # screens
            transaction.open()
            ...                                        # forward pass, update
            verdict = transaction.apply_verdict(verdict)
            transaction.commit(record)

    Attributes:
        before: the learner as it was when the transaction opened; readable until it is over.
    """

    def __init__(self, state: LearnerState, guard: Guard) -> None:
        self._state = state
        self._guard = guard
        self._saved = False
        self._guard_state: list[dict[str, Any] | None] | None = None
        self._ring: dict[int, Any] | None = None
        self._modes = torch.is_grad_enabled(), in_view()
        self._remember()
        self.before: View

    def __enter__(self) -> Transaction:
        return self

    def claim(self) -> None:
        """Makes this the learner's transaction.

        Raises:
            TransactionError: when there is one already.
        """
        self._state.notice_outside_changes()
        # Inside the `with` block, so that whatever happens after it is undone; and atomic: of two threads one gets it.
        if self._state.holder.setdefault("transaction", self) is not self:
            raise TransactionError(
                "got a transaction inside another, wanted one at a time: one step of a learner is made after the other"
            )
        self._remember()
        self._state.readings = Readings()
        if self._state.snapshots is not None:
            self._ring = self._state.snapshots.hold()

    def _remember(self) -> None:
        state = self._state
        self._version, self._progress, self._newest_snapshot = state.version, state.progress, state.newest_snapshot

    def open(self) -> None:
        """Copies the state, once a step, as a refused attempt leaves no trace; takes a snapshot where one is due."""
        if self._saved:
            return
        state = self._state
        state.backup.save()
        self._saved = True
        snapshots = state.snapshots
        # Of a state that has one already no second snapshot: refused steps would push out all that came before.
        if snapshots is not None and snapshots.due(state.steps) and state.newest_snapshot is not self._version:
            snapshots.append(state.snapshot())
            state.newest_snapshot = self._version
        self.before = View(
            state.functional_model,
            lambda: (state.backup.params, state.backup.buffers),
            step=state.steps,
            snapshots=snapshots,
            state_version=self._version,
            current=lambda: state.transaction is self,
            input_range=state.input_range,
            ranks=state.ranks,
        )

    def apply_verdict(self, verdict: Verdict, *, keep_scaler: bool = False) -> Verdict:
        """Undoes the update unless the verdict is to commit it, and rewinds where the verdict says so.

        Args:
            keep_scaler: leaves the gradient scaler unchanged: a gradient that overflowed has lowered its scale.

        Returns:
            the verdict; of a rewind, with the number of steps that were really undone.

        Raises:
            ModelError: when frozen weights were written to, which could not be undone.
            SnapshotError: when a rewind asks for more than the snapshots hold.
        """
        if self._saved:
            self._state.backup.check_left_out()
        if verdict.action is not Action.COMMIT:
            self._restore(keep_scaler=keep_scaler)
        if verdict.action is Action.REWIND:
            verdict = replace(verdict, steps=self._state.rewind(verdict.steps))
        return verdict

    def commit(self, record: StepRecord) -> None:
        """Lets the guard observe, counts the step, and ends the transaction."""
        state, guard = self._state, self._guard
        self._guard_state = copied_value(guard.state_dict())
        state.progress = state.progress.after(record)
        guard.observe(record, state.view())
        patience = guard.reset_momentum_after
        # A refused update leaves the momentum that it was made with. Where that is what does harm, it would be in every
        # later update too, and nothing would be learned any more.
        refused = state.progress.refusals.length
        if record.attempts and patience and refused and refused % patience == 0:
            for optimizer in state.optimizers:
                reset_momentum(optimizer)
            state.changed()
        state.seen()
        del state.holder["transaction"]  # before this line an exception undoes the step, after it the step stays
        if state.snapshots is not None:
            state.snapshots.prune()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state.transaction is self:
            # An interrupt right at the end of a `with` block skips what the block does there.
            torch.set_grad_enabled(self._modes[0])
            set_in_view(self._modes[1])
            try:
                self._roll_back()
            finally:
                del self._state.holder["transaction"]

    def state_dicts(self) -> dict[str, Any]:
        """The state before the step, copied, in the form of `Learner.state_dict`."""
        state = self._state
        saved = state.backup.state_dicts() if self._saved else copied_value(state.state_dicts())
        guard = copied_value(self._guard.state_dict()) if self._guard_state is None else self._guard_state
        return {
            **saved,
            "guard": guard,
            "progress": self._progress,
            "snapshots": None if state.snapshots is None else state.snapshots.state_dict(self._ring),
        }

    def _restore(self, *, keep_scaler: bool = False) -> None:
        if self._saved:
            self._state.backup.restore(scaler=not keep_scaler)
            self._state.zero_grad()
        # The very state that it was: what was kept or measured of it still holds.
        self._state.version = self._version

    def _roll_back(self) -> None:
        state = self._state
        self._restore()
        state.readings = Readings()
        state.progress = self._progress
        state.newest_snapshot = self._newest_snapshot
        if state.snapshots is not None and self._ring is not None:
            state.snapshots.roll_back(self._ring)
        if self._guard_state is not None:
            self._guard.load_state_dict(self._guard_state)
        state.seen()


class DryRun(Transaction):
    """A transaction that is opened when entered and never committed."""

    def __enter__(self) -> Transaction:
        try:
            self.claim()
            self.open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self
