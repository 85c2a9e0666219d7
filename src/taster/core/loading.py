"""Loading a learner's state: all of it, or nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from taster.core.format_version import KEY, Format, fault_text
from taster.core.guard import Guard
from taster.core.state import LearnerState
from taster.errors import CheckpointError, TasterError, TransactionError

LEARNER = Format("the state of a learner", 1, CheckpointError)
_PARTS = frozenset({"steps", "refusals", "counters", "guard", "scaler", "snapshots", "schedulers"})


class Scheduler(Protocol):
    """What a learning-rate scheduler has for checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Loads what `state_dict` returned."""
        ...


class AllOrNothing:
    """A context in which a learner's state is loaded. An error inside restores what was there, and becomes a
    CheckpointError.

    Args:
        state, guard, schedulers: what is loaded into.
        given: the state to be loaded; its parts are checked here.
        parts: what it must have beside the parts of every learner: model and optimizer, if these are loaded too.

    Raises:
        CheckpointError: when parts are missing, or it is of a newer format.
        TransactionError: in the middle of a step.
    """

    def __init__(
        self,
        state: LearnerState,
        guard: Guard,
        schedulers: Sequence[Scheduler],
        given: Mapping[str, Any],
        parts: frozenset[str] | set[str] = frozenset(),
    ) -> None:
        if not isinstance(given, Mapping):
            raise CheckpointError(f"got a {type(given).__name__}, wanted what Learner.state_dict returns")
        LEARNER.check(given.get(KEY))
        missing = (_PARTS | parts) - set(given)
        if missing:
            raise CheckpointError(f"got a state without {sorted(missing)}, wanted what Learner.state_dict returns")
        if state.transaction is not None:
            raise TransactionError("got a state to load in the middle of a step, wanted it between steps")
        self._state, self._guard, self._schedulers = state, guard, schedulers
        self._guard_state = copy.deepcopy(guard.state_dict())
        self._scheduler_states = [copy.deepcopy(scheduler.state_dict()) for scheduler in schedulers]
        self._progress = state.progress
        self._scaler = None if state.scaler is None else copy.deepcopy(state.scaler.state_dict())
        self._snapshots = None if state.snapshots is None else state.snapshots.contents()
        self._backed_up = bool(parts)
        if parts:
            state.backup.save()

    def __enter__(self) -> None:
        if self._state.snapshots is not None:
            self._state.snapshots.hold()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._restore()
        elif self._state.snapshots is not None:
            self._state.snapshots.prune()
        self._state.changed()
        self._state.newest_snapshot = None
        self._state.seen()
        if isinstance(error, Exception) and not isinstance(error, TasterError):
            raise CheckpointError(f"got the state of another model, optimizer or guard: {fault_text(error)}") from error

    def _restore(self) -> None:
        state = self._state
        if self._backed_up:
            state.backup.restore()
        self._guard.load_state_dict(self._guard_state)
        if state.scaler is not None and self._scaler:
            state.scaler.load_state_dict(self._scaler)
        for scheduler, entry in zip(self._schedulers, self._scheduler_states, strict=True):
            scheduler.load_state_dict(entry)
        state.progress = self._progress
        if state.snapshots is not None and self._snapshots is not None:
            state.snapshots.put_back(self._snapshots)
