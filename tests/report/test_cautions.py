"""What a page warns of, and that it warns of nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from taster.experiments import Recipe
from taster.report.cautions import cautions
from taster.report.data import ReportData
from taster.report.details import Details, collect_details
from taster.report.sample_pictures import Pictures

ENDS = {"none": 90.0, "flip": 60.0, "random_noise": 89.0, "accumulative": 60.0}


def run(
    attacks: list[dict[str, Any]], *, seeds: int = 3, idle: list[tuple[str, str]] | None = None, **more: Any
) -> ReportData:
    """A run with no defence; `rows` changes columns of an attack's rows."""
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "small_cnn"},
            "split": {},
            "seeds": seeds,
            "attack": attacks,
            "defence": [{"name": "none"}],
            **more.get("recipe", {}),
        }
    )
    changes = more.get("rows", {})
    rows = [
        {
            "attack": entry.label, "defence": "none", "seed": seed, "acc_start": 90.0, "steps": 5,
            "stopped_by": "steps",
            "acc_after": ENDS[entry.name] + 0.1 * seed, **changes.get(entry.label, {}),
        }
        for entry in recipe.attack
        for seed in recipe.seeds
    ]  # fmt: skip
    details = Details.model_validate({"idle": [{"attack": a, "phase": phase} for a, phase in idle or []]})
    return ReportData(recipe, {}, rows, details, Pictures(), more.get("failed", ()))


NONE, NOISE, TWICE = {"name": "none"}, {"name": "random_noise"}, {"name": "accumulative", "label": "prepared"}


def test_a_run_as_it_should_be_has_none() -> None:
    assert cautions(run([NONE, NOISE, TWICE], idle=[("none", "accumulate"), ("none", "trigger")])) == []


@pytest.mark.parametrize(("seeds", "said"), [(1, ["One seed alone"]), (2, ["Two seeds alone"]), (3, [])])
def test_few_seeds(seeds: int, said: list[str]) -> None:
    assert [text.split(":")[0] for text in cautions(run([NONE, TWICE], seeds=seeds))] == said


def test_a_failed_cell() -> None:
    failed = [{"attack": "prepared", "defence": "none", "seed": 0, "reason": "x"}]
    assert cautions(run([NONE, TWICE], failed=failed)) == ["One cell of 6 failed; “What failed” says why."]


def test_a_floor_that_lies_above_the_accuracy() -> None:
    recipe = {"schedule": {"accuracy_floor": 92.0, "margin": 3.0}}
    at_once = {"prepared": {"steps": 0, "stopped_by": "accuracy_floor"}}
    (said,) = cautions(run([NONE, TWICE], recipe=recipe, rows=at_once))
    assert said.startswith("The floor cannot be met: in 3 of 3 runs the accumulation of “prepared” never began")
    assert "under 95 % (floor and margin)" in said
    assert "90.0 % at most" in said
    (other,) = cautions(run([NONE, TWICE], rows={"prepared": {"steps": 0, "stopped_by": "loss_amplification"}}))
    assert other == "In 3 of 3 runs the accumulation of “prepared” never began."


@pytest.mark.parametrize(
    ("settings", "idle", "said"),
    [
        ({}, ["accumulate"], "The accumulation of “prepared” never began: it changed nothing before its trigger."),
        ({}, ["trigger"], "The trigger of “prepared” was never struck: its last batch was clean."),
        ({"trigger_batch": "clean"}, ["trigger"], None),
        ({}, ["accumulate", "trigger"], "“prepared” changed nothing at all: what it is said to have done is chance."),
    ],
)
def test_a_phase_in_which_nothing_was_changed(settings: dict[str, Any], idle: list[str], said: str | None) -> None:
    found = cautions(run([NONE, {**TWICE, **settings}], idle=[("prepared", phase) for phase in idle]))
    assert found == ([] if said is None else [said])


def test_an_attack_of_one_act_may_rest_in_the_other() -> None:
    assert cautions(run([NONE, NOISE], idle=[("random_noise", "trigger")])) == []


def test_a_stream_that_falls_by_itself() -> None:
    (said,) = cautions(run([NONE, TWICE], rows={"none": {"acc_start": 96.0}}))
    assert said.startswith("With nobody attacking and no defence accuracy fell by 5.9 points")


def test_attacks_that_moved_nothing() -> None:
    ends = {"prepared": {"acc_after": 88.3}}  # 1.6 points under the mean of no attack
    (said,) = cautions(run([NONE, NOISE, TWICE], rows=ends))
    assert said.startswith("No attack moved anything: with no defence none cost more than 2 points on average")
    assert "more steps (schedule.steps)" in said
    ends = {"prepared": {"acc_after": 87.0}}
    assert not any(text.startswith("No attack moved") for text in cautions(run([NONE, NOISE, TWICE], rows=ends)))
    backdoor = {"prepared": {"acc_after": 90.0, "asr_start": 1.0, "asr": 70.0}}
    assert not any(text.startswith("No attack moved") for text in cautions(run([NONE, TWICE], rows=backdoor)))


def test_noise_that_does_as_much_as_the_attack() -> None:
    ends = {"random_noise": {"acc_after": 60.1}, "prepared": {"acc_after": 60.0}}
    (said,) = cautions(run([NONE, NOISE, TWICE], rows=ends))
    assert said.startswith("Behind none the loss by “prepared” cannot be told from that by noise of its size")


def test_an_attack_on_a_training_set_that_changed_no_sample() -> None:
    offline = {"accuracy": 90.0, "poisoned": 0, "recall": []}
    rows = {"none": offline, "prepared": offline, "random_noise": {**offline, "poisoned": 3}}
    (said,) = cautions(run([NONE, NOISE, TWICE], recipe={"offline": {}}, rows=rows))
    assert said == "“prepared” changed no sample of the training set: it is a control, and not judged."


def test_idle_phases_are_those_in_which_no_step_of_any_cell_was_poisoned() -> None:
    def cell(attack: str, seed: int, poisoned: dict[str, list[int]]) -> dict[str, Any]:
        steps = [
            {
                "attack": attack, "defence": "d", "phase": phase, "poisoned": count, "verdict": "COMMIT",
                "derivatives": None, "test_accuracy": 1.0,
            }
            for phase, counts in poisoned.items()
            for count in counts
        ]  # fmt: skip
        return {"row": {"attack": attack, "defence": "d", "seed": seed, "acc_start": 1.0}, "steps": steps}

    cells = [
        cell("a", 0, {"dormant": [0], "accumulate": [0, 0], "trigger": [4]}),
        cell("a", 1, {"dormant": [0], "accumulate": [0, 3], "trigger": [4]}),
        cell("b", 0, {"dormant": [0], "accumulate": [1], "trigger": [0]}),
    ]
    found = collect_details(cells, "d", []).idle
    assert [(one.attack, one.phase) for one in found] == [("b", "trigger")]
