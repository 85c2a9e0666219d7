"""When attacks act."""

from __future__ import annotations

import pytest

from taster import COMMIT, Phase, StepRecord
from taster.attacks import Observation, Schedule, after_steps, at_accuracy_floor, at_loss_amplification
from taster.errors import AttackError


def seen(*accuracies: float, losses: tuple[float, ...] = ()) -> list[Observation]:
    observations = [Observation(None, accuracies[0])]
    for i, accuracy in enumerate(accuracies[1:]):
        loss = losses[i] if i < len(losses) else 1.0
        observations.append(Observation(StepRecord(i, 8, loss, COMMIT), accuracy))
    return observations


def phases(schedule: Schedule, observations: list[Observation]) -> list[Phase]:
    return [schedule(observations[: i + 1]) for i in range(len(observations))]


def test_after_steps() -> None:
    schedule = Schedule({"steps": after_steps(2)})
    assert phases(schedule, seen(99, 99, 99)) == [Phase.ACCUMULATE, Phase.ACCUMULATE, Phase.TRIGGER]
    assert schedule.stopped_by(seen(99, 99, 99)) == "steps"


def test_it_waits_first() -> None:
    schedule = Schedule({"steps": after_steps(1)}, dormant=2)
    expected = [Phase.DORMANT, Phase.DORMANT, Phase.ACCUMULATE, Phase.TRIGGER]
    assert phases(schedule, seen(99, 99, 99, 99)) == expected


def test_the_accuracy_floor_ends_the_phase_and_its_margin_ends_it_earlier() -> None:
    stops = {"accuracy_floor": at_accuracy_floor(90), "steps": after_steps(10)}
    assert phases(Schedule(stops), seen(97, 92, 90, 89.9))[-2:] == [Phase.ACCUMULATE, Phase.TRIGGER]
    assert Schedule(stops).stopped_by(seen(97, 92, 90, 89.9)) == "accuracy_floor"
    careful = Schedule({"accuracy_floor": at_accuracy_floor(90, margin=3)})
    assert phases(careful, seen(97, 92)) == [Phase.ACCUMULATE, Phase.TRIGGER]


def test_loss_amplification_compares_with_the_poisoned_batches_before() -> None:
    schedule = Schedule({"loss_amplification": at_loss_amplification(2.0)})
    observations = seen(97, 97, 97, 97, losses=(0.5, 0.7, 1.3))
    assert phases(schedule, observations) == [Phase.ACCUMULATE] * 3 + [Phase.TRIGGER]
    assert schedule.stopped_by(observations) == "loss_amplification"


def test_a_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(AttackError, match="wanted at least 1"):
        Schedule({})
