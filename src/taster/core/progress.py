"""How far a learner has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from taster.core.alarm import AlarmState
from taster.core.refusal_run import RefusalRun
from taster.core.step_record import StepRecord
from taster.core.verdict import Action

_OUTCOMES = {Action.COMMIT: "committed", Action.REJECT: "rejected", Action.REWIND: "rewound"}
COUNTERS = ("steps", "committed", "rejected", "rewound", "samples", "dropped", "corrected", "salvaged")


@dataclass(frozen=True)
class Progress:
    """How far a learner has come. It is replaced as a whole, so that it is never half of a step.

    Attributes:
        steps: steps made, refused ones included.
        refusals: updates refused in a row.
        counters: what became of the steps, by name, and of their samples: "samples" came, "dropped" are those of them
            that were not learned when they came, be it that a screen left them out or that the step was refused.
        alarm: what was refused lately, by which stage.
    """

    steps: int = 0
    refusals: RefusalRun = field(default_factory=RefusalRun)
    counters: Mapping[str, int] = field(default_factory=lambda: MappingProxyType(dict.fromkeys(COUNTERS, 0)))
    alarm: AlarmState = field(default_factory=AlarmState)

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings can be neither copied nor pickled.
        return _progress, (self.steps, self.refusals, dict(self.counters), self.alarm)

    def after(self, record: StepRecord) -> Progress:
        """The progress once the step of this record is over."""
        salvaged = record.verdict.committed and record.attempts > 1
        grown = {
            "steps": 1,
            _OUTCOMES[record.verdict.action]: 1,
            "samples": record.samples,
            "dropped": record.dropped if record.verdict.committed else record.samples,
            "corrected": record.corrected,
            "salvaged": int(salvaged),
        }
        counters = {name: count + grown.get(name, 0) for name, count in self.counters.items()}
        refusals = self.refusals
        if record.attempts:
            undone = record.verdict.steps
            refusals = refusals.committed() if record.verdict.committed else refusals.refused(undone)
        return Progress(self.steps + 1, refusals, MappingProxyType(counters), self.alarm.after(record))


def _progress(steps: int, refusals: RefusalRun, counters: dict[str, int], alarm: AlarmState) -> Progress:
    return Progress(steps, refusals, MappingProxyType(counters), alarm)
