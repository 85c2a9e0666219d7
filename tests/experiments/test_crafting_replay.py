"""What is told of a crafting: what the learner does after each iteration, and pictures of the sample that moves."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner

from taster import Batch, Learner
from taster.attacks import CraftingTrace
from taster.experiments import PublishedResult, RunDirectory, read_recipe, run_recipe
from taster.experiments.scenarios.crafting_replay import frames, replay, summarize_replay
from taster.report import write_report
from taster.report.crafting_curves import crafting_table, format_seconds


def formed(count: int = 4) -> tuple[CraftingTrace, Batch]:
    clean, forming = tiny_batch(3, seed=1), CraftingTrace()
    forming.start()
    for i in range(count):
        x = clean.x.clone()
        x[1] = (x[1] + 0.1 * i).clamp(0, 1)
        forming.append(Batch(x, torch.tensor([int(clean.y[0]), (int(clean.y[1]) + 1) % 3, int(clean.y[2])])), float(i))
    return forming, clean


def test_the_replay_is_what_the_learner_does() -> None:
    learner, test = tiny_learner(), tiny_batch(40, seed=2)
    for i in range(5):
        learner.step(tiny_batch(seed=i))
    learner.model.eval()  # as the replay takes batch norm
    forming, _ = formed()
    course = replay(forming, learner.view(), 0.7, test)
    assert course["untouched"] == learner.view().accuracy(test.x, test.y)
    for batch, accuracy in zip(forming.batches, course["accuracy"], strict=True):
        twin = copy.deepcopy(learner.model)
        other = Learner(twin, torch.optim.SGD(twin.parameters(), lr=0.7), torch.nn.functional.cross_entropy)
        other.step(batch)
        assert accuracy == other.view().accuracy(test.x, test.y)
    told = summarize_replay(course)
    assert (told["iterations"], told["loss"], told["accuracy"]) == (3, 3.0, min(course["accuracy"]))
    assert (told["seconds"], told["processor"], told["prepared"]) == (forming.seconds, forming.cpu_seconds, 0.0)


def test_losses_without_a_number_can_be_written() -> None:
    forming, _ = formed(2)
    forming.losses[1] = float("inf")
    course = replay(forming, tiny_learner().view(), 0.1, tiny_batch(10))
    assert course["loss"] == [0.0, None]
    assert summarize_replay(course)["loss"] == 0.0
    json.dumps(course, allow_nan=False)


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (4, 4), (31, 10)])
def test_the_frames_are_of_the_sample_that_moves_from_first_to_last(count: int, shown: int) -> None:
    forming, clean = formed(count)
    found = frames(forming, clean)
    assert len(found) == shown
    assert torch.equal(found[0], forming.batches[0].x[1])
    assert torch.equal(found[-1], forming.batches[-1].x[1])


def test_lines_take_medians_of_seconds_and_means_of_the_rest() -> None:
    def row(attack: str, seconds: float, loss: float | None, accuracy: float) -> dict[str, object]:
        entry = {
            "iterations": 30,
            "seconds": seconds,
            "processor": 2 * seconds,
            "prepared": 0.0,
            "loss": loss,
            "accuracy": accuracy,
        }
        return {"attack": attack, "defence": "none", "forming": entry}

    rows = [row("a", 1.0, 2.0, 10.0), row("a", 9.0, 4.0, 20.0), row("a", 2.0, 3.0, 30.0), row("b", 120.0, None, 5.0)]
    rows.append({"attack": "none", "defence": "none"})
    published = [PublishedResult(attack="a", defence="none", before=96.82, after=8.84, seconds=345.85, loss=13.32)]
    first, second = crafting_table(rows, published)
    assert first == [
        "a",
        "none",
        "30.0 ± 0.0",
        "2.00",
        "4.00",
        "–",
        "3.00 ± 1.00",
        "20.0 ± 10.0",
        "96.8 → 8.8, 345.85 s, loss 13.32",
    ]
    assert second == ["b", "none", "30.0", "120.0", "240.0", "–", "–", "5.0", "–"]
    assert len(crafting_table(rows)[0]) == len(first) - 1
    assert [format_seconds(value) for value in (0.0, 0.0123, 3.456, 45.67)] == ["–", "0.012", "3.46", "45.7"]


def test_a_run_keeps_the_course_and_the_page_shows_it(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    direct = 'name = "direct_gradient"\niterations = 4\ngroup_size = 30'
    settings = "{iterations = 3, group_size = 30, pretraining_size = 50, pretraining_epochs = 2}"
    path = recipe_with(
        ("trigger = 20", "trigger = 1"),
        ('name = "none"\n[[attack]]', f'name = "none"\n[[attack]]\n{direct}\n[[attack]]'),
        ("epsilon = 0.2", f'epsilon = 0.2\ntrigger_attack = "generative"\ntrigger_settings = {settings}'),
    )
    rows = run_recipe(read_recipe(str(path), ["seeds=[0]", "burn_in.momentum=0.0"]), tmp_path / "run", jobs=1)
    by_attack = {(row["attack"], row["defence"]): row for row in rows}
    assert "forming" not in by_attack["none", "none"]
    found = by_attack["direct_gradient", "none"]["forming"]
    assert 1 <= found["iterations"] <= 4
    assert found["seconds"] > 0
    assert by_attack["accumulative", "none"]["forming"]["prepared"] > 0
    (cell,) = (tmp_path / "run" / "cells").glob("direct_gradient--none--*")
    course = json.loads((cell / "cell.json").read_text())["forming"]
    assert len(course["loss"]) == len(course["accuracy"]) == found["iterations"] + 1
    page = write_report(RunDirectory(tmp_path / "run")).read_text()
    for piece in (
        "How the poison was crafted",
        "from the start (left) to the last iteration",
        "accuracy and loss by iteration",
    ):
        assert piece in page
    assert {"crafting-1-light.svg", "crafting-2-dark.svg"} <= {f.name for f in (tmp_path / "run" / "figures").iterdir()}
