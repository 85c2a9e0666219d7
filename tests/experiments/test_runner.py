"""Whole runs: what they leave, that they can be stopped at any moment, and what they refuse to begin."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taster import load_state, save_state
from taster.errors import CheckpointError, DataError, ModelError, RecipeError, RunDirectoryError
from taster.experiments import Recipe, RunDirectory, parse_recipe, read_recipe
from taster.experiments import run_recipe as run_recipe_anywhere
from taster.experiments.running.progress import NoProgress


def run_recipe(recipe: Recipe, out: Path, *, jobs: int = 1, **options: Any) -> list[dict[str, Any]]:
    """In this process unless a test says otherwise: starting others takes seconds."""
    return run_recipe_anywhere(recipe, out, jobs=jobs, **options)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "cost")} for row in rows]


def files_without_times(run: Path) -> list[dict[str, Any]]:
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return [{k: v for k, v in step.items() if k != "seconds"} for step in steps]


@pytest.fixture
def reference(tiny_recipe: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    rows = run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "reference")
    return tmp_path / "reference", rows


def test_a_run_leaves_the_whole_truth(reference: tuple[Path, list[dict[str, Any]]]) -> None:
    run, rows = reference
    results = json.loads((run / "results.json").read_text())
    assert results == {"recipe": "tiny", "rows": rows}
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
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0] or environment["packages"]["torch"]
    assert environment["threads"] == 1
    steps = files_without_times(run)
    assert len(steps) == 8 * 3
    assert [s["phase"] for s in steps[:3]] == ["accumulate", "accumulate", "trigger"]
    poisoned = {s["attack"]: s["poisoned"] for s in steps}
    assert poisoned == {"none": 0, "accumulative": 20}
    state = load_state(run / "burn_in" / "seed-0.safetensors")
    assert list(state["history"]["pinned"]) == ["epoch-1"]


def test_all_attacks_meet_the_same_stream_and_start(reference: tuple[Path, list[dict[str, Any]]]) -> None:
    run, rows = reference
    for seed in (0, 1):
        assert len({row["acc_start"] for row in rows if row["seed"] == seed}) == 1
    first = [s for s in files_without_times(run) if s["step"] == 0 and s["attack"] == "none" and s["seed"] == 0]
    assert len({s["loss"] for s in first}) == 1


class Stop(NoProgress):
    """Kills the run after so many steps, as a power cut would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, stage: str, steps: int, title: str) -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 30, 41, 45, 50, 58])
def test_a_run_killed_anywhere_resumes_to_the_same_bits(
    after: int, reference: tuple[Path, list[dict[str, Any]]], tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(str(tiny_recipe))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "run", watcher=Stop(after))
    rows = run_recipe(recipe, tmp_path / "run", resume=True)
    assert without_times(rows) == without_times(reference[1])
    assert files_without_times(tmp_path / "run") == files_without_times(reference[0])


def test_a_run_killed_by_the_system_resumes_to_the_same_bits(
    reference: tuple[Path, list[dict[str, Any]]], tiny_recipe: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "taster",
        "run",
        str(tiny_recipe),
        "--out",
        str(tmp_path / "run"),
        "--jobs",
        "2",
        "--quiet",
    ]
    process = subprocess.Popen(command, start_new_session=True)
    while not list((tmp_path / "run" / "cells").glob("*/cell.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--resume"], check=True)
    assert without_times(RunDirectory(tmp_path / "run").results()["rows"]) == without_times(reference[1])


def test_processes_give_the_same_bits(
    reference: tuple[Path, list[dict[str, Any]]], tiny_recipe: Path, tmp_path: Path
) -> None:
    rows = run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "run", jobs=2)
    assert without_times(rows) == without_times(reference[1])


def test_a_cell_by_itself_is_the_cell_of_the_grid(
    reference: tuple[Path, list[dict[str, Any]]], recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with(('[[attack]]\nname = "none"\n', ""), ('[[defence]]\nname = "none"\n', ""), ("[0, 1]", "[1]"))
    rows = run_recipe(read_recipe(str(path)), tmp_path / "alone")
    assert without_times(rows) == [
        row
        for row in without_times(reference[1])
        if (row["attack"], row["defence"], row["seed"]) == ("accumulative", "probe_gate", 1)
    ]


def test_resuming_where_there_is_nothing_starts(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(tiny_recipe), ["seeds=[0]"])
    assert len(run_recipe(recipe, tmp_path / "missing", resume=True)) == 4
    (tmp_path / "empty").mkdir()
    assert len(run_recipe(recipe, tmp_path / "empty", resume=True)) == 4


def test_another_recipe_is_not_resumed(reference: tuple[Path, list[dict[str, Any]]], tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"burn_in.epochs: got 3, the run has 2"):
        run_recipe(read_recipe(str(tiny_recipe), ["burn_in.epochs=3"]), reference[0], resume=True)


def test_a_directory_in_use_is_not_written_over(
    reference: tuple[Path, list[dict[str, Any]]], tiny_recipe: Path, tmp_path: Path
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
        run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "file" / "run", watcher=Stop(1))


def test_a_full_disk_is_told_and_the_run_resumes(
    reference: tuple[Path, list[dict[str, Any]]], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    from taster.experiments.run_directory import CellDirectory

    recipe, begin = read_recipe(str(tiny_recipe)), CellDirectory.begin

    def begin_on_a_full_disk(self: CellDirectory) -> None:
        begin(self)
        if self.path.name.startswith("accumulative--none") and self.path.name.endswith("--1"):
            (self.path / "steps.jsonl").unlink()
            (self.path / "steps.jsonl").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        patch.setattr(CellDirectory, "begin", begin_on_a_full_disk)
        with pytest.raises(RunDirectoryError, match=r"No space left on device.*--resume"):
            run_recipe(recipe, tmp_path / "run")
    (full,) = (tmp_path / "run" / "cells").glob("accumulative--none--*--1")
    (full / "steps.jsonl").unlink()
    rows = run_recipe(recipe, tmp_path / "run", resume=True)
    assert without_times(rows) == without_times(reference[1])


MODULE = """
import torch
from torch import nn
from taster import Guard

def narrow(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def picky(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10))

def nothing(shape, classes):
    return None

def broken(shape, classes):
    raise RuntimeError("no luck")

def not_a_guard(probe):
    return "guard"

def raises(probe):
    raise KeyError("lost")

def breaks(probe):
    def gate(change):
        raise ZeroDivisionError("oops")
    return Guard(gates=[gate])

class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.dropout = nn.Dropout(0.5)
    def forward(self, x):
        return self.fc(self.dropout(x.flatten(1)))

def drops(shape, classes):
    return Drops()
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


MODEL = 'name = "mlp"\nhidden = [16]'


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("narrow", r"returned \[2, 7\] for two images, wanted \[2, 10\]"),
        ("picky", "cannot take images of"),
        ("nothing", "returned NoneType, wanted a torch.nn.Module"),
        ("broken", "RuntimeError: no luck"),
    ],
)
def test_models_that_do_not_fit_are_told_before_anything_is_written(
    function: str, message: str, own_module: str, recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = read_recipe(str(recipe_with((MODEL, f'name = "{own_module}:{function}"'))))
    with pytest.raises(ModelError, match=message):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_defence_that_is_no_guard_is_told(own_module: str, recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    recipe = read_recipe(str(recipe_with(('"probe_gate"', f'"{own_module}:not_a_guard"'))))
    with pytest.raises(RecipeError, match=r"returned str, wanted a Guard"):
        run_recipe(recipe, tmp_path / "run")
    for function, message in (("raises", "raised KeyError"), ("breaks", "raised ZeroDivisionError: oops")):
        path = recipe_with(('"probe_gate"', f'"{own_module}:{function}"'))
        with pytest.raises(RecipeError, match=message):
            run_recipe(read_recipe(str(path)), tmp_path / function)


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


@pytest.mark.parametrize(
    "left", [["recipe.toml"], [".recipe.toml.77.part"], ["recipe.toml", ".environment.json.77.part"]]
)
def test_a_run_killed_while_it_began_resumes(
    left: list[str], reference: tuple[Path, list[dict[str, Any]]], tiny_recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        whole = reference[0] / name
        (tmp_path / "run" / name).write_bytes(whole.read_bytes() if whole.exists() else b"half")
    rows = run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "run", resume=True)
    assert without_times(rows) == without_times(reference[1])
    assert (tmp_path / "run" / "environment.json").is_file()


def test_a_burn_in_that_comes_to_nothing_is_told(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="came to nothing in epoch"):
        run_recipe(read_recipe(str(tiny_recipe), ["burn_in.learning_rate=1e30"]), tmp_path / "run")


def test_dropout_is_the_same_for_all_and_on_resuming(
    own_module: str, recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = read_recipe(str(recipe_with((MODEL, f'name = "{own_module}:drops"'))))
    a = run_recipe(recipe, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "b", watcher=Stop(47))
    assert without_times(run_recipe(recipe, tmp_path / "b", resume=True)) == without_times(a)


def test_roles_that_do_not_fit_the_data_are_told(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    recipe = read_recipe(str(recipe_with(("probe = 50", "probe = 5000"))))
    with pytest.raises(DataError, match=r"split.probe = 5000"):
        run_recipe(recipe, tmp_path / "run")
    recipe = read_recipe(str(recipe_with(("burn_in = 200", "burn_in = 1550"))))
    with pytest.raises(RecipeError, match="wanted at most the 7 samples"):
        run_recipe(recipe, tmp_path / "run")


BURN_IN = "epochs = 2\nbatch_size = 20\nkeep_epochs = [1]"


def test_weights_from_elsewhere_take_the_place_of_the_burn_in(
    reference: tuple[Path, list[dict[str, Any]]], recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    state = load_state(reference[0] / "burn_in" / "seed-0.safetensors")
    save_state(tmp_path / "w.safetensors", state)
    recipe = read_recipe(
        str(recipe_with((BURN_IN, f'epochs = 0\ncheckpoint = "{tmp_path}/w.safetensors"'), ("[0, 1]", "[0]")))
    )
    rows = run_recipe(recipe, tmp_path / "run")
    assert rows[0]["acc_start"] == reference[1][0]["acc_start"]


def test_earlier_weights_are_a_past_to_compare_with(
    reference: tuple[Path, list[dict[str, Any]]], recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    state = load_state(reference[0] / "burn_in" / "seed-0.safetensors")
    save_state(tmp_path / "w.safetensors", state)
    save_state(tmp_path / "early.safetensors", state["history"]["pinned"]["epoch-1"]["params"])
    ours = f'checkpoint = "{tmp_path}/w.safetensors"\nearlier = {{early = "{tmp_path}/early.safetensors"}}'
    defence = ('name = "probe_gate"', 'name = "dsc"\nreference_model = "{}"\nthreshold = 0.05')
    rows = {}
    for label, burn_in in (("early", ours), ("epoch-1", BURN_IN)):
        change = (defence[0], defence[1].format(label))
        path = recipe_with((BURN_IN, burn_in), ("[0, 1]", "[0]"), change)
        recipe = read_recipe(str(path), ["stream.fresh_optimizer=true"])
        run_recipe(recipe, tmp_path / label)
        steps = RunDirectory(tmp_path / label).finished(recipe)
        rows[label] = [[s["corrected"] for s in cell["steps"]] for cell in steps if cell["row"]["defence"] == "dsc"]
    assert rows["early"] == rows["epoch-1"]
    assert 0 < rows["early"][0][0] < 20


def test_weights_that_do_not_fit_are_listed_by_name(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    save_state(tmp_path / "w.safetensors", {"model": {"1.weight": torch.ones(3, 3), "extra": torch.ones(1)}})
    recipe = read_recipe(str(recipe_with((BURN_IN, f'epochs = 0\ncheckpoint = "{tmp_path}/w.safetensors"'))))
    with pytest.raises(CheckpointError) as caught:
        run_recipe(recipe, tmp_path / "run")
    message = str(caught.value)
    for part in ("1.weight: got [3, 3], wanted [16, 64]", "1.bias: missing in the file", "extra: not in the model"):
        assert part in message
    recipe = read_recipe(str(recipe_with((BURN_IN, 'epochs = 0\ncheckpoint = "nowhere.safetensors"'))))
    with pytest.raises(CheckpointError, match="no such file"):
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


@pytest.mark.parametrize("asked", ["fast", "exact"])
def test_the_fastest_way_to_differentiate_is_found_and_kept(
    asked: str, recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with()
    changes = [f"compute.derivatives={asked}"]
    rows = run_recipe(read_recipe(str(path), changes), tmp_path / "run")
    kept = RunDirectory(tmp_path / "run").recipe()
    assert kept.compute.way is not None
    assert asked == "fast" or kept.compute.way.is_exact
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    used = {line["derivatives"] for line in lines if line["attack"] == "accumulative"}
    assert used == {str(kept.compute.way)}
    again = run_recipe(read_recipe(str(path), changes), tmp_path / "run", resume=True)
    assert again == rows


def test_scores_surrogates_and_a_rehearsal_go_through_a_run(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    extra = (
        '[[attack]]\nname = "accumulative"\nlabel = "other seed"\nepsilon = 0.2\npgd_steps = 2\n'
        'validation_size = 40\nsurrogate = "seed"\n'
        '[[attack]]\nname = "accumulative"\nlabel = "other model"\nepsilon = 0.2\npgd_steps = 2\n'
        'validation_size = 40\nsurrogate = "cnn"\n'
        '[[attack]]\nname = "guard_aware"\nepsilon = 0.2\npgd_steps = 2\nvalidation_size = 40\n'
        '[[attack]]\nname = "ood_images"\nsource = "digits"\n'
        '[[score]]\nname = "memorization_discrepancy"\nreference_model = "epoch-1"\n'
        '[[score]]\nname = "anomaly"\ndetector = "lid"\n[[score]]\nname = "loss"\n'
        '[[surrogate]]\nlabel = "seed"\n'
        '[[surrogate]]\nlabel = "cnn"\nmodel = {name = "small_cnn", width = 4}\n'
    )
    path = recipe_with()
    path.write_text(path.read_text() + extra)
    recipe = read_recipe(str(path), ["seeds=[0]"])
    rows = run_recipe(recipe, tmp_path / "run")
    assert len(rows) == 6 * 2
    by_attack = {row["attack"]: row["scores"] for row in rows if row["defence"] == "none"}
    for attack, scores in by_attack.items():
        assert list(scores) == ["memorization_discrepancy", "anomaly", "loss"]
        assert set(scores["loss"]) == {"accumulate", "trigger"}
        assert ("auc" in scores["loss"]["trigger"]) == (attack != "none")
    # Poison crafted on another model is other poison.
    losses = {a: by_attack[a]["loss"]["accumulate"]["poisoned"] for a in ("accumulative", "other seed", "other model")}
    assert len(set(losses.values())) == 3
    state = load_state(tmp_path / "run" / "burn_in" / "seed-0.safetensors")
    assert list(state["surrogates"]) == ["seed", "cnn"]
    assert not torch.equal(next(iter(state["surrogates"]["seed"].values())), next(iter(state["model"].values())))
    steps = files_without_times(tmp_path / "run")
    assert all(set(step["scores"]) == {"memorization_discrepancy", "anomaly", "loss"} for step in steps)
    # Scores only look: the rows are those of a run without them.
    plain = parse_recipe({**recipe.to_dict(), "score": []})
    without = run_recipe(plain, tmp_path / "plain")
    assert [{k: v for k, v in row.items() if k != "scores"} for row in without_times(rows)] == without_times(without)


def test_where_nobody_attacks_only_the_count_ends_it(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with(("steps = 2", "steps = 2\naccuracy_floor = 100.0"))
    rows = run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run")
    stopped = {row["attack"]: (row["steps"], row["stopped_by"]) for row in rows}
    assert stopped == {"none": (2, "steps"), "accumulative": (0, "accuracy_floor")}


def test_a_score_by_steps_back_begins_with_the_present(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with()
    path.write_text(path.read_text() + '[[score]]\nname = "memorization_discrepancy"\nreference_model = 2\n')
    run_recipe(read_recipe(str(path), ["seeds=[0]", "history.capacity=3"]), tmp_path / "run")
    steps = files_without_times(tmp_path / "run")[:3]
    means = [step["scores"]["memorization_discrepancy"]["clean"] for step in steps]
    assert means[0] == 0.0
    assert means[1] > 0


def test_samples_that_a_screen_touched_are_counted(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with(('"probe_gate"', '"adversarial_training"\nsteps = 1'))
    rows = run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run")
    assert {row["defence"]: row["screened"] for row in rows} == {"none": 0.0, "adversarial_training": 100.0}


def test_a_score_that_is_none_is_told(
    recipe_with: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_scores.py").write_text("def nothing():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    path = recipe_with()
    path.write_text(path.read_text() + '[[score]]\nname = "own_scores:nothing"\n')
    with pytest.raises(RecipeError, match="returned int, wanted a Score"):
        run_recipe(read_recipe(str(path)), tmp_path / "run")


def test_an_unknown_way_to_differentiate_is_told(recipe_with: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"compute\.derivatives: got 'quick', wanted fast, exact, or a way"):
        read_recipe(str(recipe_with()), ["compute.derivatives=quick"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_run_that_is_killed_leaves_no_worker_behind(tiny_recipe: Path, tmp_path: Path) -> None:
    def workers() -> list[int]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                arguments = (stat.parent / "cmdline").read_bytes()
                environment = (stat.parent / "environ").read_bytes()
                if b"spawn_main" in arguments and str(tmp_path).encode() in environment:
                    found.append(int(stat.parent.name))
        return found

    command = [sys.executable, "-m", "taster", "run", str(tiny_recipe), "--out", str(tmp_path / "run"), "--jobs", "2"]
    command += ["--set", "burn_in.epochs=100000"]  # none ends by itself
    mark = {**os.environ, "TASTER_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=mark)
    end = time.monotonic() + 120
    while not workers():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(3)  # they are at work
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while workers():
        assert time.monotonic() < end, "workers went on"
        time.sleep(0.1)
