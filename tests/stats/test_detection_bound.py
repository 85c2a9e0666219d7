"""What a probe can detect: against simulation, and against common sense."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import tiny_learner

from taster import Batch, detection_bound
from taster.defences import probe_gate
from taster.errors import GuardError
from taster.stats.paired_tests import mcnemar_pvalue


def passes(samples: int, fall: float, churn: float, alpha: float, runs: int, tolerance: float = 1.0) -> float:
    """How often a fall (in points) passes the gate's own test, by simulation: it refuses where the observed drop is
    more than the tolerance, and more than chance."""
    seed = 0
    draw = np.random.default_rng(seed).random((runs, samples))
    lost = draw < fall / 100 + churn / 200
    gained = ~lost & (draw < fall / 100 + churn / 100)
    count = 0
    for i in range(runs):
        before = torch.from_numpy(~gained[i])
        after = torch.from_numpy(~lost[i])
        drop = float((before.double() - after.double()).mean())
        count += not (drop > tolerance / 100 + 1e-12 and mcnemar_pvalue(before, after, 0.0) < alpha)
    return count / runs


@pytest.mark.parametrize(("samples", "churn"), [(200, 5.0), (500, 2.0), (1000, 10.0)])
def test_a_drop_of_the_bound_passes_as_often_as_stated(samples: int, churn: float) -> None:
    found = detection_bound(samples, alpha=0.01, churn=churn, confidence=0.9)
    at_bound = passes(samples, found.max_accuracy_drop, churn, 0.01, 3000)
    assert at_bound == pytest.approx(0.1, abs=0.02)
    assert passes(samples, found.max_accuracy_drop + 3, churn, 0.01, 1000) < at_bound


def test_it_depends_on_samples_checks_refusals_and_confidence() -> None:
    base = detection_bound(1000).max_accuracy_drop
    assert detection_bound(4000).max_accuracy_drop < base
    # The observed drop must exceed the tolerance: a small one is below what can be told from chance anyway.
    assert detection_bound(1000, tolerance=0.1).max_accuracy_drop == base
    assert base < detection_bound(1000, tolerance=3.0).max_accuracy_drop
    assert detection_bound(1000, tolerance=6.0).max_accuracy_drop == pytest.approx(
        detection_bound(1000, tolerance=3.0).max_accuracy_drop + 3, abs=0.5
    )
    assert detection_bound(1000, checks=100).max_accuracy_drop > base
    assert (
        detection_bound(1000, checks=100, refusals=20, outcomes=9).max_accuracy_drop
        > detection_bound(1000, checks=100, refusals=20).max_accuracy_drop
    )
    assert (
        detection_bound(1000, checks=100, refusals=20).max_accuracy_drop
        > detection_bound(1000, checks=100).max_accuracy_drop
    )
    assert detection_bound(1000, confidence=0.999).max_accuracy_drop > base
    assert detection_bound(1000, churn=20.0).max_accuracy_drop > base
    assert detection_bound(1000, alpha=0.2).max_accuracy_drop < base
    assert detection_bound(2).max_accuracy_drop == 100.0
    assert re.search(
        r"with 95 % confidence .* 3\.\d points .* \(1000 samples, churn 5 %, 1 checks, at most 0 refusals\)",
        str(detection_bound(1000)),
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"samples": 0},
        {"checks": 0},
        {"refusals": 2},
        {"confidence": 1.0},
        {"alpha": 0.0},
        {"churn": -1.0},
        {"tolerance": 101.0},
        {"samples": 1.5},
        {"samples": True},
        {"samples": "10"},
        {"samples": float("nan")},
        {"samples": 10**9},
        {"samples": 10**400},
        {"checks": math.inf},
        {"checks": 1.5},
        {"checks": 10**12},
        {"checks": 10**9, "refusals": 10**8},
        {"refusals": float("nan")},
        {"outcomes": 0},
        {"outcomes": math.inf},
        {"tolerance": float("nan")},
        {"tolerance": 10**400},
        {"alpha": float("nan")},
        {"confidence": None},
        {"churn": True},
    ],
)
def test_numbers_out_of_range_are_errors(asked: dict[str, float]) -> None:
    with pytest.raises(GuardError, match="detection_bound: got"):
        detection_bound(**{"samples": 100, **asked})  # type: ignore[arg-type]


def test_the_gates_bound_follows_its_alpha_and_tolerance() -> None:
    probe = Batch(torch.rand(1000, 1, 2, 2), torch.arange(1000) % 4)
    (gate,) = probe_gate(probe, tolerance=2.0, alpha=0.1).gates
    # Half of alpha is for the whole probe, shared by two quantities against two references.
    assert (
        gate.detection_bound(checks=7).max_accuracy_drop
        == detection_bound(1000, tolerance=2.0, alpha=0.1 / 8, checks=7).max_accuracy_drop
    )


def test_the_gates_bound_counts_the_samples_that_it_holds_out() -> None:
    guard = probe_gate(Batch(torch.rand(2500, 1, 2, 2), torch.arange(2500) % 3))
    tiny_learner(guard=guard)
    (gate,) = guard.gates
    assert gate.held_out == 1500
    found = gate.detection_bound(checks=50, refusals=20)
    # Of samples held out one test is made, against two references; none of them has refused yet.
    same = {"alpha": 0.01 / 2, "checks": 50, "refusals": 20}
    assert found == detection_bound(2500, held_out=1500, held_out_refusals=0, **same)
    assert (
        found.max_accuracy_drop < detection_bound(2500, held_out=1500, held_out_refusals=20, **same).max_accuracy_drop
    )


def test_a_probe_too_small_for_its_tolerance_causes_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    probe_gate(Batch(torch.rand(40, 1, 2, 2), torch.arange(40) % 4))
    assert "a probe of 40 samples finds most harm, but makes sure only" in caplog.text
    caplog.clear()
    probe_gate(Batch(torch.rand(1000, 1, 2, 2), torch.arange(1000) % 4))
    assert caplog.text == ""


@pytest.mark.parametrize(("samples", "churn"), [(200, 10.0), (500, 20.0)])
def test_the_false_alarm_rate_agrees_with_simulation(samples: int, churn: float) -> None:
    found = detection_bound(samples, alpha=0.2, churn=churn)
    alarms = 1 - passes(samples, 0.0, churn, 0.2, 4000)
    assert alarms == pytest.approx(found.false_alarm_rate, abs=0.015)
    assert 0.01 < found.false_alarm_rate < 0.2
    assert detection_bound(samples, alpha=0.2, churn=churn, checks=1000).false_alarm_rate == 1.0
    assert detection_bound(samples, alpha=0.2, churn=0.0).false_alarm_rate == 0.0


def test_the_largest_numbers_that_are_taken_end_with_a_bound() -> None:
    found = detection_bound(1000, checks=10**9, refusals=10**6, outcomes=10**9)
    assert found.max_accuracy_drop > detection_bound(1000, checks=10**9).max_accuracy_drop
    assert detection_bound(np.int64(1000)) == detection_bound(1000)


def test_a_probe_beyond_the_largest_is_bounded_like_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taster.defences.gates.probe_gate.MAX_SAMPLES", 500)
    (gate,) = probe_gate(Batch(torch.rand(600, 1, 2, 2), torch.arange(600) % 4)).gates
    assert gate.detection_bound().samples == 500


ANYTHING = st.one_of(
    st.integers(-5, 50),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.sampled_from([10**400, -(10**400), 10**9, 0.5, 1.0, 100, [], {}, 1j]),
)
NAMES = ("tolerance", "alpha", "checks", "refusals", "confidence", "churn", "outcomes")


@given(samples=ANYTHING, asked=st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3))
def test_any_argument_gives_a_bound_or_a_named_error(samples: object, asked: dict[str, object]) -> None:
    if isinstance(samples, int) and 500 < samples <= 100_000:
        samples = 500  # larger ones take seconds
    try:
        found = detection_bound(samples, **asked)  # type: ignore[arg-type]
    except GuardError:
        return
    assert 0 <= found.max_accuracy_drop <= 100
    assert 0 <= found.false_alarm_rate <= 1
