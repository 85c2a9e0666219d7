"""What is said of refusals: once a cause, and not at every step."""

from __future__ import annotations

import logging

import pytest

from taster import StepRecord, Verdict, reject, rewind
from taster.core.alarm import Alarm
from taster.core.verdict import COMMIT


def heard(caplog: pytest.LogCaptureFixture, verdicts: list[tuple[Verdict, int]]) -> list[tuple[str, str]]:
    """Level and text of what an alarm says of steps, each a verdict and a number of attempts."""
    alarm = Alarm()
    with caplog.at_level(logging.INFO, "taster.core.learner"):
        for step, (verdict, attempts) in enumerate(verdicts):
            alarm.hear(StepRecord(step, 8, 0.5, verdict, attempts=attempts))
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
