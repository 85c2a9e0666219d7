"""The states that a gate has checked, and how far it goes back among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from taster.core.guard import CandidateUpdate
from taster.core.types import Tensors, Verdict, reject, rewind


class CheckTrail:
    """Measurements of the last states that were checked, by the step that each was the state before.

    Args:
        reach: how many steps back they are kept; the newest is always kept.
    """

    def __init__(self, reach: int) -> None:
        self._reach = max(reach, 1)
        self._checks: dict[int, Tensors] = {}

    def __bool__(self) -> bool:
        return bool(self._checks)

    @property
    def newest(self) -> tuple[int, Tensors]:
        """The last check: the step, and what was measured."""
        return next(reversed(self._checks.items()))

    def append(self, step: int, measured: Tensors) -> None:
        """Adds the state before this step, and forgets those out of reach."""
        self._checks[step] = measured
        while len(self._checks) > 1 and next(iter(self._checks)) < step - self._reach:
            del self._checks[next(iter(self._checks))]

    def postpone(self, step: int) -> None:
        """The newest state is still the model's before this step."""
        self.append(step, self._checks.popitem()[1])

    def forget_from(self, step: int) -> Tensors | None:
        """Forgets the states from this step on; returns what was measured at it, if it was."""
        there = self._checks.get(step)
        self._checks = {taken: kept for taken, kept in self._checks.items() if taken < step}
        return there

    def clear(self) -> None:
        """Forgets all states."""
        self._checks = {}

    def newest_acceptable(self, step: int, reach: int, acceptable: Callable[[Tensors], bool]) -> int:
        """The newest acceptable state within reach of a step; if none is, the oldest within reach."""
        within = [(taken, kept) for taken, kept in self._checks.items() if step - taken <= reach]
        for taken, kept in reversed(within):
            if acceptable(kept):
                return taken
        return within[0][0] if within else step

    def state_dict(self) -> list[dict[str, Any]]:
        """Steps and measurements, oldest first."""
        return [{"step": step, **kept} for step, kept in self._checks.items()]

    @staticmethod
    def entries(state: list[dict[str, Any]]) -> dict[int, Tensors]:
        """The measurements of a saved state, by step."""
        return {entry["step"]: {k: v for k, v in entry.items() if k != "step"} for entry in state}

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restores steps and measurements."""
        self._checks = self.entries(state)


def undo(change: CandidateUpdate, back_to: int, reason: str, evidence: Mapping[str, float] | None = None) -> Verdict:
    """The verdict that goes back to the state before a step, but no further than the snapshots reach."""
    steps = change.step - max(back_to, min(change.before.snapshot_steps, default=change.step))
    return rewind(steps, reason, "", evidence) if steps else reject(reason, "", evidence)
