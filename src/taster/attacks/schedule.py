"""When an attack acts: the phases of an attack, and the conditions that end the accumulative one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taster.core.step_record import Phase, StepRecord
from taster.errors import AttackError


@dataclass(frozen=True)
class Observation:
    """What an attacker sees after a step.

    Attributes:
        record: of the step just taken. None before the first step.
        accuracy: on the monitor's split, in points.
    """

    record: StepRecord | None
    accuracy: float


StopCondition = Callable[[Sequence[Observation]], bool]
"""Whether the accumulative phase is over, given the observations from the last dormant one on, oldest first."""


@dataclass(frozen=True)
class Schedule:
    """Dormant, accumulative until one of several conditions holds, then one trigger.

    Attributes:
        stops: conditions by name; the first that holds names what ended the phase.
        dormant: number of clean steps before the accumulative phase.
    """

    stops: dict[str, StopCondition]
    dormant: int = 0

    def __post_init__(self) -> None:
        if not self.stops or self.dormant < 0:
            raise AttackError(
                f"got {len(self.stops)} conditions and {self.dormant} dormant steps, wanted at least 1 and 0"
            )

    def __call__(self, observations: Sequence[Observation]) -> Phase:
        """The phase of the next step."""
        if len(observations) <= self.dormant:
            return Phase.DORMANT
        return Phase.ACCUMULATE if self.stopped_by(observations) is None else Phase.TRIGGER

    def stopped_by(self, observations: Sequence[Observation]) -> str | None:
        """The name of the condition that ended the accumulative phase; None while it lasts."""
        seen = observations[self.dormant :]
        return next((name for name, stop in self.stops.items() if stop(seen)), None)


def after_steps(steps: int) -> StopCondition:
    """Holds after a number of accumulative steps (Pang et al. 2021, Tables 3 to 6)."""
    return lambda seen: len(seen) > steps


def at_accuracy_floor(floor: float, *, margin: float = 0.0) -> StopCondition:
    """Holds once the monitored accuracy is below the floor plus a margin, in points.

    With margin 0 the phase ends when the monitor reports it, as in Pang et al. 2021, Section 4.1 ("early-stop the
    accumulative procedure if the model accuracy becomes lower than a specified range"). With a margin of about what one
    step costs a careful attacker strikes before that.
    """
    return lambda seen: seen[-1].accuracy < floor + margin


def at_loss_amplification(factor: float) -> StopCondition:
    """Holds once the training loss of the newest poisoned batch is `factor` times the mean over the earlier ones.

    Source: Zhu et al. 2023, Section 5 and Appendix C.1: the trigger follows when the training loss "is amplified by a
    threshold of previous poison samples".
    """

    def stop(seen: Sequence[Observation]) -> bool:
        losses = [o.record.loss for o in seen[1:] if o.record is not None and o.record.loss is not None]
        return len(losses) > 1 and losses[-1] >= factor * sum(losses[:-1]) / len(losses[:-1])

    return stop
