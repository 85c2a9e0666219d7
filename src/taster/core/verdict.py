"""What a guard decides about an update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Action(IntEnum):
    """Outcome of an update, in order of severity."""

    COMMIT = 0
    REJECT = 1
    REWIND = 2


@dataclass(frozen=True)
class Verdict:
    """A gate's decision about one update.

    Attributes:
        action: commit, reject (undo this update) or rewind (go back to an older snapshot).
        steps: how many steps to go back; 0 unless rewinding.
        reason: one sentence for people.
        stage: name of the stage that decided; filled in by the step.
        evidence: the numbers that the decision is based on, by name.
    """

    action: Action = Action.COMMIT
    steps: int = 0
    reason: str = ""
    stage: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """Whether the update is kept."""
        return self.action is Action.COMMIT


COMMIT = Verdict()


def reject(reason: str, stage: str = "", evidence: Mapping[str, float] | None = None) -> Verdict:
    """A verdict that undoes the update."""
    return Verdict(Action.REJECT, 0, reason, stage, evidence or {})


def rewind(steps: int, reason: str, stage: str = "", evidence: Mapping[str, float] | None = None) -> Verdict:
    """A verdict that restores the state before the last `steps` steps (1 is the step before this one)."""
    return Verdict(Action.REWIND, steps, reason, stage, evidence or {})


def most_severe(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe of several verdicts; the first among equals; COMMIT when there are none."""
    return max(verdicts, key=lambda v: (v.action, v.steps), default=COMMIT)
