"""What is said of refusals: an alarm once a cause, with what to do, and not at every step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from taster.core.step_record import StepRecord
from taster.errors import CheckpointError

_log = logging.getLogger("taster.core.learner")

_QUIET = 20
"""Steps in a row that a cause does not refuse after which it is over."""

_FURTHER = "further refusals of this cause are logged at level INFO. "

_LOOK = (
    "Look at what was refused (on_refusal=, taster.Quarantine) and at where it came from. One honest batch in hundreds "
    "is refused by chance; if many are, "
)

_IF_MANY = (
    "the steps are too large (learning rate, momentum), the stream is sorted where it should be shuffled, or the "
    "trusted data have grown old (guard.set_trusted_data)"
)

_NOT_FINITE = (
    "A batch with NaN or infinity in it is broken where it was made; a loss or gradient that is not finite comes of "
    "too large a step or, in half precision, of too large a scale"
)


@dataclass(frozen=True)
class Cause:
    """The refusals by one stage.

    Attributes:
        stage: its name.
        began: the step of the first.
        refused, undone: steps that were refused, and those before them that went back with them.
        seen: steps since it began.
        quiet: steps since the last refusal.
    """

    stage: str
    began: int
    refused: int = 0
    undone: int = 0
    seen: int = 0
    quiet: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it has refused nothing for long enough."""
        return self.quiet >= _QUIET

    def after(self, record: StepRecord) -> Cause:
        """The cause after a step."""
        below = record.verdict.committed and bool(record.verdict.evidence.get("below"))
        own = self.stage == _refusing(record)
        return replace(
            self,
            refused=self.refused + own,
            undone=self.undone + own * record.verdict.steps,
            seen=self.seen + 1,
            quiet=0 if own or below else self.quiet + 1,
        )

    def in_words(self) -> str:
        """How much was refused."""
        steps = self.seen - self.quiet
        text = f"{self.refused} of {steps} steps" if steps > 1 else "that step alone"
        return text if not self.undone else f"{text}, and took back {self.undone} before"


@dataclass(frozen=True)
class AlarmState:
    """What an alarm knows after a step: a part of a learner's progress, and so of its checkpoints.

    Attributes:
        causes: that refuse, or were over with this step.
        said: the last reason that a guard gave while it committed.
        is_news: whether that was with this step, and another one than before.
    """

    causes: tuple[Cause, ...] = ()
    said: str = ""
    is_news: bool = False

    def after(self, record: StepRecord) -> AlarmState:
        """The state after one more step."""
        causes = [cause for cause in self.causes if not cause.is_over]
        refusing = _refusing(record)
        if refusing and all(cause.stage != refusing for cause in causes):
            causes.append(Cause(refusing, record.step))
        said = self.said if refusing else record.verdict.reason or self.said
        return AlarmState(tuple(cause.after(record) for cause in causes), said, said != self.said)

    def state(self) -> dict[str, Any]:
        """Words and whole numbers to save."""
        return {"causes": [list(astuple(cause)) for cause in self.causes], "said": self.said}

    @classmethod
    def from_state(cls, state: object) -> AlarmState:
        """As it was saved.

        Raises:
            CheckpointError: if it is anything else.
        """
        if not isinstance(state, Mapping) or set(state) != {"causes", "said"} or not isinstance(state["said"], str):
            raise CheckpointError(f"got the alarm {state!r}, wanted causes and said")
        rows = state["causes"]
        if not isinstance(rows, (list, tuple)) or not all(_is_cause(row) for row in rows):
            raise CheckpointError(f"got causes {rows!r}, wanted a stage and five whole numbers of at least 0 for each")
        return cls(tuple(Cause(*row) for row in rows), state["said"])


def _is_cause(row: object) -> bool:
    return (
        isinstance(row, (list, tuple))
        and len(row) == len(fields(Cause))
        and isinstance(row[0], str)
        and all(type(n) is int and n >= 0 for n in row[1:])
    )


def _refusing(record: StepRecord) -> str:
    """The stage that has refused the step, or what was tried of it first; empty if none has."""
    verdict = record.verdict
    return verdict.stage if not verdict.committed or record.attempts > 1 else ""


class Alarm:
    """Logs refusals by the logger `taster.core.learner`: the first of a cause as a warning, with what to do; those
    that follow as information, with a warning at the tenth, the hundredth and so on; and the end of it after twenty
    steps that it has not refused, of a model that is not said to be below what it was. A cause is the stage that
    refuses. What a guard says of the model while it commits is logged as it changes.

    Args:
        if_many: what it can be where many honest batches are refused.
    """

    def __init__(self, if_many: str = _IF_MANY) -> None:
        self._if_many = if_many
        self._advised: dict[str, str] = {}

    def advise(self, stage: str, advice: str) -> None:
        """Logs what a stage has to say of its trusted data, as a warning, once a process."""
        if advice and self._advised.get(stage) != advice:
            _log.warning("%s: %s", stage, advice)
        self._advised[stage] = advice

    def hear(self, state: AlarmState, record: StepRecord) -> None:
        """Logs what there is to say of a step.

        Args:
            state: after it.
            record: of it.
        """
        refusing = _refusing(record)
        for cause in state.causes:
            if cause.stage == refusing:
                self._refuse(cause, record)
        if state.is_news:
            below = bool(record.verdict.evidence.get("below"))
            _log.log(logging.WARNING if below else logging.INFO, "step %d: %s", record.step, state.said)
        for cause in state.causes:
            if cause.is_over:
                _log.warning("the alarm of step %d is over: %s refused %s", cause.began, cause.stage, cause.in_words())

    def _refuse(self, cause: Cause, record: StepRecord) -> None:
        verdict = record.verdict
        said = "salvaged, refused" if verdict.committed else "rewound" if verdict.steps else "rejected"
        back = "" if not verdict.steps else f", with {verdict.steps} before it"
        text = f"step {record.step}: {said} by {cause.stage}{back}: {verdict.reason}"
        if cause.refused == 1:
            what = _NOT_FINITE if cause.stage == "finite_values" else _LOOK + self._if_many
            _log.warning("%s; %s%s", text, _FURTHER, what)
        elif str(cause.refused).strip("0") == "1":
            refused = f"has refused {cause.refused} of {cause.seen} steps"
            _log.warning("%s; since step %d %s %s", text, cause.began, cause.stage, refused)
        else:
            _log.info("%s", text)
