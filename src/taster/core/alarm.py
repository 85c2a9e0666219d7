"""What is said of refusals: an alarm once a cause, with what to do, and not at every step."""

from __future__ import annotations

import logging

from taster.core.step_record import StepRecord

_log = logging.getLogger("taster.core.learner")

_QUIET = 20
"""Committed steps in a row after which a cause is over."""

_WHAT_TO_DO = (
    "further refusals of this cause are logged at level INFO. Look at what was refused (on_refusal=, "
    "taster.Quarantine) and at where it came from. One honest batch in hundreds is refused by chance; if many are, "
    "the steps are too large (learning rate, momentum) or the trusted data have grown old (guard.set_trusted_data)"
)


class Alarm:
    """Logs refusals by the logger `taster.core.learner`: the first of a cause as a warning, with what to do; those
    that follow as information, with a warning at the tenth, the hundredth and so on; and the end of it after twenty
    committed steps of a model that is not said to be below what it was. A cause is the stage that refuses. What a guard
    says of the model while it commits is logged as it changes.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._refused = self._seen = self._quiet = 0
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
        salvaged = verdict.committed and record.attempts > 1
        self._seen += 1
        if verdict.committed and not salvaged:
            self._commit(record)
            return
        said = "salvaged, refused" if salvaged else "rewound" if verdict.steps else "rejected"
        text = f"step {record.step}: {said} by {verdict.stage}: {verdict.reason}"
        self._quiet = 0
        if verdict.stage != self._stage:
            self._stage, self._began, self._refused, self._seen = verdict.stage, record.step, 1, 1
            _log.warning("%s; %s", text, _WHAT_TO_DO)
            return
        self._refused += 1
        if str(self._refused).strip("0") == "1":
            _log.warning(
                "%s; since step %d %s has refused %d of %d steps",
                text,
                self._began,
                verdict.stage,
                self._refused,
                self._seen,
            )
        else:
            _log.info("%s", text)

    def _commit(self, record: StepRecord) -> None:
        reason = record.verdict.reason
        below = bool(record.verdict.evidence.get("below"))
        if reason and reason != self._said:
            self._said = reason
            _log.log(logging.WARNING if below else logging.INFO, "step %d: %s", record.step, reason)
        if not self._stage:
            return
        self._quiet = 0 if below else self._quiet + 1
        if self._quiet >= _QUIET:
            _log.warning(
                "the alarm of step %d is over: %s refused %s",
                self._began,
                self._stage,
                f"{self._refused} of {steps} steps" if (steps := self._seen - self._quiet) > 1 else "that step alone",
            )
            self._stage, self._quiet = "", 0
