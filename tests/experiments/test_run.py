"""Whole runs: what they leave, and what they refuse to begin."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.conftest import Rows, files_without_times, run_recipe, without_times
from tests.experiments.conftest import Stop

from taster import load_state
from taster.errors import DataError, ModelError, RecipeError, RunDirectoryError
from taster.experiments import RunDirectory, parse_recipe, read_recipe


def test_a_run_leaves_the_whole_truth(reference: tuple[Path, Rows]) -> None:
    run, rows = reference
    results = json.loads((run / "results.json").read_text())
    assert results == {"taster_format": 1, "recipe": "tiny", "rows": rows}
    assert len(rows) == 2 * 2 * 2
    keys = [
        "attack",
        "defence",
        "seed",
        "acc_start",
        "acc_before",
        "acc_after",
        "drop",
        "worst_step",
        "steps",
        "stopped_by",
        "rejected",
        "screened",
        "detection_bound",
        "seconds",
        "cost",
    ]
    for row in rows:
        assert list(row) == keys
        assert row["drop"] == row["acc_after"] - row["acc_before"]
        assert (row["steps"], row["stopped_by"]) == (2, "steps")
        assert all(0 <= row[k] <= 100 for k in ("acc_start", "acc_before", "acc_after"))
        assert row["cost"] > 1
    assert RunDirectory(run).recipe().attack[1].settings["normalize"] == "per_tensor"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch")
    assert environment["threads"] == 1
    steps = files_without_times(run)
    assert len(steps) == 8 * 3
    assert [s["phase"] for s in steps[:3]] == ["accumulate", "accumulate", "trigger"]
    poisoned = {s["attack"]: s["poisoned"] for s in steps}
    assert poisoned == {"none": 0, "accumulative": 20}
    state = load_state(run / "burn_in" / "seed-0.safetensors")
    assert list(state["snapshots"]["pinned"]) == ["epoch-1"]


def test_all_attacks_meet_the_same_stream_and_start(reference: tuple[Path, Rows]) -> None:
    run, rows = reference
    for seed in (0, 1):
        assert len({row["acc_start"] for row in rows if row["seed"] == seed}) == 1
    first = [s for s in files_without_times(run) if s["step"] == 0 and s["attack"] == "none" and s["seed"] == 0]
    assert len({s["loss"] for s in first}) == 1


def test_processes_give_the_same_bits(reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path) -> None:
    rows = run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "run", jobs=2)
    assert without_times(rows) == without_times(reference[1])


def test_a_cell_by_itself_is_the_cell_of_the_grid(
    reference: tuple[Path, Rows], recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with(('[[attack]]\nname = "none"\n', ""), ('[[defence]]\nname = "none"\n', ""), ("[0, 1]", "[1]"))
    rows = run_recipe(read_recipe(str(path)), tmp_path / "alone")
    assert without_times(rows) == [
        row
        for row in without_times(reference[1])
        if (row["attack"], row["defence"], row["seed"]) == ("accumulative", "probe_gate", 1)
    ]


def test_a_directory_in_use_is_not_written_over(
    reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(str(tiny_recipe))
    with pytest.raises(RunDirectoryError, match="go on with --resume"):
        run_recipe(recipe, reference[0])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        run_recipe(recipe, tmp_path / "other")


def test_an_unwritable_directory_is_told_before_any_work(tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError):
        run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "file" / "run", progress=Stop(1))


def test_a_directory_whose_name_is_no_unicode_is_told_before_any_work(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(RunDirectoryError, match="got a path that is no Unicode, wanted one in UTF-8"):
        run_recipe(read_recipe(str(tiny_recipe)), out)
    assert not out.exists()


def test_labels_that_look_alike_as_file_names_have_their_own_cells(
    recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with(
        ('[[attack]]\nname = "none"', '[[attack]]\nname = "random_noise"\nlabel = "λ=0"'),
        ('name = "accumulative"\nepsilon = 0.2\npgd_steps = 2\nvalidation_size = 40', 'name = "none"\nlabel = "ε=0"'),
        ("[0, 1]", "[0]"),
    )
    rows = run_recipe(read_recipe(str(path)), tmp_path / "run")
    assert [row["attack"] for row in rows] == ["λ=0", "λ=0", "ε=0", "ε=0"]


def test_a_burn_in_that_comes_to_nothing_is_told(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="came to nothing in epoch"):
        run_recipe(read_recipe(str(tiny_recipe), ["burn_in.learning_rate=1e30"]), tmp_path / "run")


def test_roles_that_do_not_fit_the_data_are_told(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    recipe = read_recipe(str(recipe_with(("probe = 50", "probe = 5000"))))
    with pytest.raises(DataError, match=r"split.probe = 5000"):
        run_recipe(recipe, tmp_path / "run")
    recipe = read_recipe(str(recipe_with(("burn_in = 200", "burn_in = 1550"))))
    with pytest.raises(RecipeError, match="wanted at most the 7 samples"):
        run_recipe(recipe, tmp_path / "run")


def test_an_unknown_device_is_told(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"compute.device: got 'gpu'"):
        run_recipe(read_recipe(str(tiny_recipe), ["compute.device=gpu"]), tmp_path / "run")


def test_bfloat16_channels_last_and_augmentation_run(tiny_recipe: Path, tmp_path: Path) -> None:
    changes = [
        "compute.precision=bfloat16",
        "compute.channels_last=true",
        "stream.crop=1",
        "stream.flip=true",
        "burn_in.crop=1",
        "seeds=[0]",
        "history.capacity=2",
        "stream.fresh_optimizer=true",
        "stream.learning_rate=0.01",
        "schedule.dormant=1",
    ]
    raw = read_recipe(str(tiny_recipe), changes).to_dict()
    raw["model"] = {"name": "small_cnn", "width": 4}
    rows = run_recipe(parse_recipe(raw), tmp_path / "run")
    assert len(rows) == 4
    phases = [json.loads(line)["phase"] for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()[:4]]
    assert phases == ["dormant", "accumulate", "accumulate", "trigger"]


def test_an_unknown_method_of_differentiation_is_told(recipe_with: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"compute\.derivatives: got 'quick', wanted one of double_backward"):
        read_recipe(str(recipe_with()), ["compute.derivatives=quick"])


def test_where_nobody_attacks_only_the_count_ends_it(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with(("steps = 2", "steps = 2\naccuracy_floor = 100.0"))
    rows = run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run")
    stopped = {row["attack"]: (row["steps"], row["stopped_by"]) for row in rows}
    assert stopped == {"none": (2, "steps"), "accumulative": (0, "accuracy_floor")}


def test_samples_that_a_screen_touched_are_counted(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with(('"probe_gate"', '"adversarial_training_correction"\nsteps = 1'))
    rows = run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run")
    assert {row["defence"]: row["screened"] for row in rows} == {"none": 0.0, "adversarial_training_correction": 100.0}
