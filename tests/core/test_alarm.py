"""What is said of refusals: once a cause, and not at every step."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Batch, Guard, Learner, StepRecord, Verdict, View, load_state, reject, rewind, save_state
from taster.core.alarm import Alarm, AlarmState
from taster.core.backward import online_gradient
from taster.core.guard import CandidateUpdate, ScreenedBatch
from taster.core.verdict import COMMIT
from taster.errors import CheckpointError


def heard(caplog: pytest.LogCaptureFixture, verdicts: list[tuple[Verdict, int]]) -> list[tuple[str, str]]:
    """Level and text of what an alarm says of steps, each a verdict and a number of attempts."""
    alarm, state = Alarm(), AlarmState()
    with caplog.at_level(logging.INFO, "taster.core.learner"):
        for step, (verdict, attempts) in enumerate(verdicts):
            record = StepRecord(step, 8, 0.5, verdict, attempts=attempts)
            state = state.after(record)
            alarm.hear(state, record)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def refusals(count: int, stage: str = "probe_gate") -> list[tuple[Verdict, int]]:
    return [(reject(f"harm {i}", stage), 1) for i in range(count)]


def commits(count: int, said: str = "") -> list[tuple[Verdict, int]]:
    return [(Verdict(reason=said), 1)] * count


def test_a_cause_is_a_warning_once_then_information_and_the_tenth_a_warning_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = heard(caplog, commits(3) + refusals(12))
    assert [level for level, _ in said] == ["WARNING"] + ["INFO"] * 8 + ["WARNING"] + ["INFO"] * 2
    assert said[0][1].startswith("step 3: rejected by probe_gate: harm 0; further refusals of this cause are logged")
    assert "guard.set_trusted_data" in said[0][1]
    assert said[1][1] == "step 4: rejected by probe_gate: harm 1"
    assert said[9][1] == "step 12: rejected by probe_gate: harm 9; since step 3 probe_gate has refused 10 of 10 steps"


def test_the_hundredth_is_a_warning_and_steps_between_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    mixed = [step for refusal in refusals(100) for step in [refusal, *commits(1)]]
    warnings = [text for level, text in heard(caplog, mixed) if level == "WARNING"]
    assert len(warnings) == 3
    assert warnings[1].endswith("since step 0 probe_gate has refused 10 of 19 steps")
    assert warnings[2].endswith("since step 0 probe_gate has refused 100 of 199 steps")


def test_twenty_committed_steps_in_a_row_end_it_and_the_next_is_a_new_cause(caplog: pytest.LogCaptureFixture) -> None:
    said = heard(caplog, [*refusals(1), *commits(19), *refusals(1), *commits(20), *commits(30), *refusals(1)])
    assert [level for level, _ in said] == ["WARNING", "INFO", "WARNING", "WARNING"]
    assert said[2][1] == "the alarm of step 0 is over: probe_gate refused 2 of 21 steps"
    assert "further refusals of this cause" in said[3][1]


def test_another_stage_is_another_cause(caplog: pytest.LogCaptureFixture) -> None:
    said = heard(caplog, [*refusals(2), *refusals(1, "finite"), *refusals(1, "finite")])
    assert [level for level, _ in said] == ["WARNING", "INFO", "WARNING", "INFO"]
    assert said[2][1].startswith("step 2: rejected by finite: harm 0")


def test_rewound_and_salvaged_steps_are_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    salvaged = Verdict(COMMIT.action, 0, "learned 4 of 8 samples: harm", "probe_gate")
    said = heard(caplog, [(rewind(2, "drift", "probe_gate"), 1), (salvaged, 3), *commits(20)])
    assert said[0][1].startswith("step 0: rewound by probe_gate, with 2 before it: drift; further")
    assert said[1] == ("INFO", "step 1: salvaged, refused by probe_gate: learned 4 of 8 samples: harm")
    assert said[2][1] == "the alarm of step 0 is over: probe_gate refused 2 of 2 steps, and took back 2 before"


def test_causes_that_alternate_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    mixed = [step for i in range(15) for step in [*refusals(1), *refusals(1, "finite_values")]]
    said = heard(caplog, mixed + commits(20))
    warnings = [text for level, text in said if level == "WARNING"]
    assert len(said) == 30 + 2
    assert [text.split(":")[0] for text in warnings[:4]] == ["step 0", "step 1", "step 18", "step 19"]
    assert "guard.set_trusted_data" in warnings[0]
    assert "guard.set_trusted_data" not in warnings[1]
    assert "half precision" in warnings[1]
    assert warnings[3].endswith("since step 1 finite_values has refused 10 of 19 steps")
    assert warnings[4:] == [
        "the alarm of step 0 is over: probe_gate refused 15 of 29 steps",
        "the alarm of step 1 is over: finite_values refused 15 of 29 steps",
    ]


def test_one_step_alone_is_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    said = heard(caplog, [*refusals(1), *commits(20)])
    assert said[1][1] == "the alarm of step 0 is over: probe_gate refused that step alone"


def test_what_a_guard_says_while_it_commits_is_logged_as_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    learning, level = "watching: the model is still learning", "watching: the model is level"
    said = heard(caplog, commits(2) + commits(3, learning) + commits(1) + commits(2, learning) + commits(4, level))
    assert said == [("INFO", f"step 2: {learning}"), ("INFO", f"step 8: {level}")]


def refusing_learner() -> Learner:
    """Refuses every other step."""

    def gate(update: CandidateUpdate) -> Verdict:
        return COMMIT if update.step % 2 == 0 else reject("harm")

    torch.manual_seed(0)
    return tiny_learner(guard=Guard(gates=[gate]))


def said_by(learner: Learner, caplog: pytest.LogCaptureFixture, steps: range) -> list[tuple[str, str]]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "taster.core.learner"):
        for seed in steps:
            learner.step(tiny_batch(seed=seed))
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("through_a_file", [True, False])
def test_a_checkpoint_goes_on_counting(caplog: pytest.LogCaptureFixture, tmp_path: Path, through_a_file: bool) -> None:
    whole = said_by(refusing_learner(), caplog, range(30))
    first, second = refusing_learner(), refusing_learner()
    begun = said_by(first, caplog, range(15))
    state = first.state_dict()
    if through_a_file:
        save_state(tmp_path / "learner.safetensors", state)
        state = load_state(tmp_path / "learner.safetensors")
    second.load_state_dict(state)
    assert begun + said_by(second, caplog, range(15, 30)) == whole
    assert [level for level, _ in whole] == ["WARNING"] + ["INFO"] * 8 + ["WARNING"] + ["INFO"] * 5


def test_a_checkpoint_in_the_middle_of_a_step_has_the_alarm_of_before() -> None:
    states: list[dict[str, Any]] = []

    def gate(update: CandidateUpdate) -> Verdict:
        states.append(learner.guard_state_dict()["alarm"])
        return reject("harm")

    learner = tiny_learner(guard=Guard(gates=[gate]))
    learner.step(tiny_batch(seed=0))
    between = learner.guard_state_dict()["alarm"]
    learner.step(tiny_batch(seed=1))
    assert states == [AlarmState().state(), between]
    assert between == {"causes": [["gate", 0, 1, 0, 1, 0]], "said": ""}


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {"causes": [], "said": 3},
        {"causes": 1, "said": ""},
        {"causes": [["gate", 0, 1]], "said": ""},
        {"causes": [["gate", 0, 1, 0, 1, -1]], "said": ""},
        {"causes": [[0, 0, 1, 0, 1, 0]], "said": ""},
        {"causes": [["gate", 0, True, 0, 1, 0]], "said": ""},
    ],
)
def test_a_damaged_alarm_is_told_and_nothing_is_loaded(damaged: Any) -> None:
    learner, other = refusing_learner(), refusing_learner()
    for seed in range(4):
        learner.step(tiny_batch(seed=seed))
    before = full_state(other)
    with pytest.raises(CheckpointError, match=r"got (the alarm|causes) "):
        other.load_state_dict({**learner.state_dict(), "alarm": damaged})
    assert same_state(before, full_state(other))
    assert other.steps == 0
    assert other.guard_state_dict()["alarm"] == AlarmState().state()


def test_a_state_without_an_alarm_begins_with_none() -> None:
    learner, other = refusing_learner(), refusing_learner()
    for seed in range(4):
        learner.step(tiny_batch(seed=seed))
        other.step(tiny_batch(seed=seed))
    state = learner.state_dict()
    del state["alarm"]
    other.load_state_dict(state)
    assert other.guard_state_dict()["alarm"] == AlarmState().state()


def test_learners_of_one_past_have_one_state_whoever_logs() -> None:
    """The state is a part of the progress, so that processes that train together save the same."""
    loud, mute = refusing_learner(), refusing_learner()
    for seed in range(4):
        loud.step(tiny_batch(seed=seed))
        mute.run(tiny_batch(seed=seed), online_gradient, alarm=False)
    assert loud.guard_state_dict()["alarm"] == mute.guard_state_dict()["alarm"]
    assert loud.guard_state_dict()["alarm"]["causes"] == [["gate", 1, 2, 0, 3, 0]]


def test_samples_that_are_not_learned_are_counted_whatever_refuses_them() -> None:
    """8 samples a batch: learned; refused for a NaN; refused by a gate; two left out by a screen."""

    def screen(admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        return admitted.drop(torch.arange(len(admitted.batch)) < 2, "") if view.step == 3 else admitted

    def gate(update: CandidateUpdate) -> Verdict:
        return reject("harm") if update.step == 2 else COMMIT

    learner = tiny_learner(guard=Guard(screens=[screen], gates=[gate]))
    broken = tiny_batch(seed=1)
    broken.x[0] = float("nan")
    dropped = []
    for batch in (tiny_batch(seed=0), broken, tiny_batch(seed=2), tiny_batch(seed=3)):
        learner.step(batch)
        dropped.append(learner.counters["dropped"])
    assert dropped == [0, 8, 16, 18]
    assert learner.counters["samples"] == 32
    assert (learner.counters["committed"], learner.counters["rejected"]) == (2, 2)
