"""When trusted data have grown old."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.conftest import tiny_learner
from tests.defences.conftest import noisy, poison, trained

import taster
from taster import Batch, StepRecord, reject
from taster.core.verdict import COMMIT
from taster.defences import probe_gate
from taster.defences.gates.probe_age import FIRST, ProbeAge


def record(step: int, loss: float, samples: int = 50, **more: object) -> StepRecord:
    return StepRecord(step=step, samples=samples, loss=loss, **{"verdict": COMMIT, "attempts": 1, **more})  # type: ignore[arg-type]


def fed(age: ProbeAge, ratios: list[float], seed: int = 0, *, young: bool = False, **more: object) -> ProbeAge:
    """Steps of a stream whose batches cost so many times what the probe costs, while the model learns."""
    generator = torch.Generator().manual_seed(seed)
    reference = {"correct": torch.ones(500).bool(), "loss": 2 * torch.rand(500, generator=generator)}
    mean = float(reference["loss"].mean())
    for step, ratio in enumerate(ratios):
        probe = mean * 0.99**step
        noise = float(torch.exp(0.2 * torch.randn((), generator=generator)))
        age.observe(record(step, ratio * noise * probe / 0.99, **more), "gate", reference, mean - probe, young=young)
    return age


@pytest.mark.parametrize("ratio", [1.0, 1.6])
def test_a_stream_that_stays_as_it_is_ages_no_probe(ratio: float) -> None:
    for seed in range(10):
        assert fed(ProbeAge(), [ratio] * 6 * FIRST, seed).advice == ""


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_a_gap_that_opens_in_either_direction_does(ratio: float) -> None:
    advice = fed(ProbeAge(), [1.0] * 2 * FIRST + [ratio] * FIRST).advice
    assert "grown old" in advice
    assert "taster.probe.renew" in advice
    assert ("follows the stream" in advice) == (ratio < 1)


def test_of_a_model_that_has_only_begun_to_learn_the_gap_may_move() -> None:
    ratios = [0.6] * 2 * FIRST + [1.1] * 2 * FIRST
    assert fed(ProbeAge(), ratios).advice != ""
    assert fed(ProbeAge(), ratios, young=True).advice == ""
    grown = fed(ProbeAge(), ratios, young=True)
    assert "grown old" in fed(grown, [2.2] * FIRST).advice


def test_what_was_refused_or_learned_in_part_ages_no_probe() -> None:
    for more in ({"verdict": reject("no", "gate")}, {"attempts": 2}, {"dropped": 3}, {"trusted": True}):
        age = fed(ProbeAge(), [1.0] * 2 * FIRST)
        assert "grown old" not in fed(age, [3.0] * 2 * FIRST, **more).advice


def test_single_samples_are_compared_in_groups() -> None:
    age = fed(ProbeAge(), [1.0] * 400, samples=1)
    assert len(age.state_dict()["first"]) == 399 // 50


def test_refusals_use_a_probe_up_when_they_have_doubled_the_bound() -> None:
    age = ProbeAge()
    for step in range(20):
        age.observe(record(step, 1.0, verdict=reject("no", "gate")), "gate", {}, None)
        age.observe_use(lambda _, refusals: 10.0 + refusals)
    assert "used up: 1" in age.advice
    idle = ProbeAge()
    for step in range(20):
        idle.observe(record(step, 1.0, verdict=reject("no", "another")), "gate", {}, None)
        idle.observe_use(lambda _, refusals: 10.0 + 100 * refusals)
    assert idle.advice == ""


def test_the_state_goes_on_where_it_was() -> None:
    whole = fed(ProbeAge(), [1.0] * 150 + [2.0] * 60)
    half = fed(ProbeAge(), [1.0] * 150 + [2.0] * 60)
    again = ProbeAge()
    again.load_state_dict(half.state_dict())
    assert again.advice == whole.advice != ""
    first, second = again.state_dict(), half.state_dict()
    assert first.keys() == second.keys()
    assert all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def test_a_learner_says_so_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    learner = tiny_learner(guard=taster.guard(noisy(300, seed=9), seed=0))
    trained(learner, 30, noisy)
    with caplog.at_level(logging.WARNING, "taster.core.learner"):
        for i in range(30):
            learner.step(poison(noisy(64, seed=100 + i), 5.0))
    said = [line for line in caplog.messages if "used up" in line]
    assert len(said) == 1
    assert said[0].startswith("probe_gate: the probe is used up")
    guard = learner.guard
    guard.set_trusted_data(noisy(300, seed=10))
    assert guard.gates[0].advice == ""  # type: ignore[attr-defined]


def test_a_world_that_turns_ages_the_probe_of_a_learner() -> None:
    # Where classes are held, what the turn costs one of them is refused before the probe has grown old.
    guard = probe_gate(noisy(300, seed=9), seed=0, tolerance=50.0, class_tolerance=None)
    learner = trained(tiny_learner(guard=guard), 250, noisy)
    assert guard.gates[0].advice == ""  # type: ignore[attr-defined]
    for i in range(150):
        batch = noisy(32, seed=1000 + i)
        learner.step(Batch((batch.x - 0.25).clamp(0, 1), batch.y))
    assert "grown old" in guard.gates[0].advice  # type: ignore[attr-defined]
