"""What is said of refusals: an alarm once a cause, with what to do, and not at every step."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from taster.core.step_record import StepRecord

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


@dataclass(eq=False)
class _Cause:
    """The refusals by one stage.

    Attributes:
        began: the step of the first.
        refused, undone: steps that were refused, and those before them that went back with them.
        seen: steps since it began.
        quiet: steps since the last refusal.
    """

    began: int
    refused: int = 0
    undone: int = 0
    seen: int = 0
    quiet: int = 0

    def in_words(self) -> str:
        """How much was refused."""
        steps = self.seen - self.quiet
        text = f"{self.refused} of {steps} steps" if steps > 1 else "that step alone"
        return text if not self.undone else f"{text}, and took back {self.undone} before"


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
        self._causes: dict[str, _Cause] = {}
        self._said = ""
        self._advised: dict[str, str] = {}

    def advise(self, stage: str, advice: str) -> None:
        """Logs what a stage has to say of its trusted data, as a warning, once."""
        if advice and self._advised.get(stage) != advice:
            _log.warning("%s: %s", stage, advice)
        self._advised[stage] = advice

    def hear(self, record: StepRecord) -> None:
        """Logs what there is to say of a step."""
        verdict = record.verdict
        refusing = verdict.stage if not verdict.committed or record.attempts > 1 else ""
        if refusing:
            self._refuse(record)
        else:
            self._commit(record)
        below = verdict.committed and bool(verdict.evidence.get("below"))
        for stage, cause in list(self._causes.items()):
            cause.seen += 1
            cause.quiet = 0 if below or stage == refusing else cause.quiet + 1
            if cause.quiet >= _QUIET:
                _log.warning("the alarm of step %d is over: %s refused %s", cause.began, stage, cause.in_words())
                del self._causes[stage]

    def _refuse(self, record: StepRecord) -> None:
        verdict = record.verdict
        said = "salvaged, refused" if verdict.committed else "rewound" if verdict.steps else "rejected"
        back = "" if not verdict.steps else f", with {verdict.steps} before it"
        text = f"step {record.step}: {said} by {verdict.stage}{back}: {verdict.reason}"
        new = verdict.stage not in self._causes
        cause = self._causes.setdefault(verdict.stage, _Cause(record.step))
        cause.refused += 1
        cause.undone += verdict.steps
        if new:
            what = _NOT_FINITE if verdict.stage == "finite_values" else _LOOK + self._if_many
            _log.warning("%s; %s%s", text, _FURTHER, what)
        elif str(cause.refused).strip("0") == "1":
            steps, began = cause.seen + 1, cause.began
            refused = f"has refused {cause.refused} of {steps} steps"
            _log.warning("%s; since step %d %s %s", text, began, verdict.stage, refused)
        else:
            _log.info("%s", text)

    def _commit(self, record: StepRecord) -> None:
        reason = record.verdict.reason
        if reason and reason != self._said:
            self._said = reason
            below = bool(record.verdict.evidence.get("below"))
            _log.log(logging.WARNING if below else logging.INFO, "step %d: %s", record.step, reason)
