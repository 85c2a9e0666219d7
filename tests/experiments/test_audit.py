"""taster audit: from a model and data of the user's own to a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from taster.cli import app
from taster.errors import CheckpointError, DataError, ModelError, RecipeError, TasterError
from taster.experiments import read_recipe, run_recipe
from taster.experiments.audit import Audit, AuditRequest
from taster.experiments.audit.findings import examine
from taster.experiments.audit.plan import Speed, stream_size
from taster.experiments.audit.trial import choose_rate
from taster.experiments.running.progress import NoProgress


def write_images(folder: Path, per_class: int = 4, classes: tuple[str, ...] = ("cat", "dog"), size: int = 8) -> None:
    draws = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = draws.integers(0, 255, (size, size), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASTER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting workers takes longer than these nets."""
    monkeypatch.setattr("taster.experiments.running.runner.available_cores", lambda: 1)


def test_a_csv_of_paths_keeps_its_class_names(tmp_path: Path) -> None:
    write_images(tmp_path)
    lines = [f"{name}/{i}.png,{name}" for name in ("dog", "cat") for i in range(4)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    found = examine(AuditRequest("mlp", str(tmp_path / "labels.csv")))
    assert (found.names, found.train, found.shape, found.largest) == (["cat", "dog"], 8, (1, 8, 8), 50.0)
    resized = examine(AuditRequest("mlp", str(tmp_path / "labels.csv"), resize=(4, 6), color="rgb"))
    assert resized.shape == (3, 4, 6)


def test_mixed_sizes_name_the_option_that_mends_them(tmp_path: Path) -> None:
    write_images(tmp_path, size=8, classes=("cat",))
    write_images(tmp_path, size=9, classes=("dog",))
    lines = [f"{name}/0.png,{name}" for name in ("cat", "dog")] * 2
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match="--resize HEIGHTxWIDTH"):
        examine(AuditRequest("mlp", str(tmp_path / "labels.csv")))


def test_an_unreadable_and_a_missing_image_are_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    listing = tmp_path / "labels.csv"
    listing.write_text("path,label\ncat/0.png,cat\ndog/0.png,dog\ncat/9.png,cat\n")
    with pytest.raises(DataError, match=r"1 of 3 images are not there: .*9\.png"):
        examine(AuditRequest("mlp", str(listing)))
    (tmp_path / "cat" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9\.png: cannot be read as an image"):
        examine(AuditRequest("mlp", str(listing)))


def test_a_folder_of_one_class_or_of_none_is_told(tmp_path: Path) -> None:
    write_images(tmp_path / "one", classes=("cat",))
    with pytest.raises(DataError, match="one class 'cat'"):
        examine(AuditRequest("mlp", str(tmp_path / "one")))
    with pytest.raises(DataError, match="without sub-folders"):
        examine(AuditRequest("mlp", str(tmp_path / "one" / "cat")))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"model": "no module"}, RecipeError, "--model"),
        ({"budget": 0.0}, RecipeError, "--budget"),
        ({"epsilon": 2.0}, RecipeError, "--epsilon"),
        ({"seeds": 0}, RecipeError, "--seeds"),
    ],
)
def test_bad_options_are_told(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AuditRequest(**{"model": "mlp", "data": "digits", **given})  # type: ignore[arg-type]


def test_too_few_samples_and_a_model_that_does_not_take_them(tmp_path: Path) -> None:
    write_images(tmp_path / "few")
    (tmp_path / "few.csv").write_text(
        "path,label\n" + "".join(f"few/{n}/{i}.png,{n}\n" for n in ("cat", "dog") for i in range(4))
    )
    with pytest.raises(DataError, match="got 8 samples, wanted at least 300"):
        Audit(AuditRequest("mlp", str(tmp_path / "few.csv")), NoProgress(), print)
    with pytest.raises(ModelError, match=r"--model: torch.nn:Identity (?s:.*)--resize(?s:.*)10 classes"):
        Audit(AuditRequest("torch.nn:Identity", "digits"), NoProgress(), print)


@pytest.mark.usefixtures("_in_this_process")
def test_the_recipe_is_one_that_runs_and_fits_the_budget() -> None:
    audit = Audit(
        AuditRequest("mlp", "digits", budget=0.5, seeds=1, overrides=["burn_in.momentum=0.5"]), NoProgress(), print
    )
    recipe, rows = audit.first_pass()
    assert len(rows) == len(recipe.attack) * len(recipe.defence)
    suite = audit.recipe()
    assert suite.schedule.accuracy_floor is not None
    assert suite.schedule.margin == 5.0
    assert suite.burn_in.momentum == 0.5
    assert [entry.name for entry in suite.defence] == ["none", "clipping", "accuracy_monitor", "guard"]


def test_the_greatest_of_the_good_rates_is_taken() -> None:
    assert choose_rate({0.1: float("nan"), 0.03: 0.51, 0.01: 0.50, 0.001: 2.0}) == 0.03
    assert choose_rate({0.1: float("inf"), 0.01: float("nan")}) == 0.01


def test_a_folder_of_save_to_disk_is_read_with_its_classes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    pixels = [Image.fromarray(np.full((8, 8), value, dtype=np.uint8)) for value in range(6)]
    made = datasets.Dataset.from_dict({"picture": pixels, "kind": [0, 1] * 3}, features=features)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "two"))
    one, two = (examine(AuditRequest("mlp", str(tmp_path / name))) for name in ("one", "two"))
    assert (one.train, one.test, one.names, one.shape) == (6, None, ["cat", "dog"], (1, 8, 8))
    assert (two.train, two.test) == (6, 6)


# Pillow leaves a file open that it cannot read, in the call that `datasets` makes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unreadable_image_in_a_folder_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    whole = (tmp_path / "photos" / "dog" / "1.png").read_bytes()
    (tmp_path / "photos" / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"dog/cut\.png: cannot be read as an image"):
        examine(AuditRequest("mlp", str(tmp_path / "photos")))


def test_the_label_of_a_table_is_the_column_called_so_else_the_last(tmp_path: Path) -> None:
    named, last, bare = (tmp_path / f"{name}.csv" for name in ("named", "last", "bare"))
    named.write_text("label,width\nsmall,1\nbig,5\nsmall,2\n")
    last.write_text("width,kind\n1,small\n5,big\n2,small\n")
    bare.write_text("small,a word\nbig,another word\nsmall,words\n")
    assert examine(AuditRequest("mlp", str(named))).names == ["big", "small"]
    assert examine(AuditRequest("mlp", str(last))).names == ["big", "small"]
    texts = examine(AuditRequest("mlp", str(bare), label="0", text="1"))
    assert (texts.kind, texts.train, texts.scene) == ("texts", 3, "offline")


def test_a_folder_called_digits_is_preferred_by_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    found = examine(AuditRequest("mlp", "digits"))
    assert (found.section["source"], found.names) == ("./digits", ["cat", "dog"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere:make", "--data", "digits"], "--model: nowhere:make: cannot be imported"),
        (["--model", "mlp", "--data", "digits", "--weights", "none.pt"], "--weights: none.pt: no such file"),
        (["--model", "mlp", "--data", "none.csv"], "no such file"),
        (["--model", "mlp", "--data", "digits", "--resize", "big"], "--resize: got 'big'"),
        (["--model", "mlp", "--data", "digits", "--color", "red"], "--color: got 'red'"),
        (["--model", "mlp", "--data", "digits", "--text", "words"], "--text"),
        (["--model", "mlp"], "--data: got nothing"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["audit", *options])
    assert isinstance(done.exception, TasterError)
    assert message in str(done.exception)
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_resume_without_a_directory_is_told() -> None:
    done = CliRunner().invoke(app, ["audit", "--resume"])
    assert "--out" in str(done.exception)


def test_weights_that_do_not_fit_name_their_keys(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"--weights: .*does not fit the model:\n.*missing in the file"):
        Audit(AuditRequest("mlp", "digits", weights=str(tmp_path / "weights.pt")), NoProgress(), print)


@pytest.mark.usefixtures("_in_this_process")
def test_weights_that_know_nothing_of_the_data_are_refused(tmp_path: Path) -> None:
    from taster.models import MODELS

    torch.manual_seed(0)
    torch.save(MODELS["mlp"](shape=(1, 8, 8), classes=10).state_dict(), tmp_path / "weights.pt")
    request = AuditRequest("mlp", "digits", weights=str(tmp_path / "weights.pt"), budget=0.5, seeds=1)
    audit = Audit(request, NoProgress(), print)
    with pytest.raises(ModelError, match=r"nothing to break(?s:.*)Do the weights expect other classes"):
        audit.recipe()


@pytest.mark.usefixtures("_in_this_process")
def test_a_table_is_audited_and_its_recipe_does_the_same_again(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    rows = [f"{x:.3f},{y:.3f},{'right' if x + y > 0 else 'left'}" for x, y in draws.normal(size=(200, 2))]
    (tmp_path / "table.csv").write_text("width,height,side\n" + "\n".join(rows) + "\n")
    request = AuditRequest(
        "mlp", str(tmp_path / "table.csv"), budget=0.5, seeds=1, learning_rate=0.1, overrides=["offline.epochs=2"]
    )
    audit = Audit(request, NoProgress(), print)
    recipe = audit.recipe()
    assert (recipe.offline is not None and recipe.offline.epochs, recipe.data.class_names) == (2, ["left", "right"])
    rows_of = run_recipe(recipe, tmp_path / "run", jobs=1)
    again = run_recipe(read_recipe(str(tmp_path / "run" / "recipe.toml")), tmp_path / "again", jobs=1)
    figures = [[row["accuracy"] for row in found] for found in (rows_of, again)]
    assert len(rows_of) == len(recipe.attack) * len(recipe.defence)
    assert figures[0] == figures[1]


def test_a_longer_budget_makes_a_larger_suite() -> None:
    speed = Speed(guarded_step=0.01, pgd_step=0.01)
    sizes = [stream_size(speed, seconds, 4, 2, 1, None) for seconds in (1.0, 20.0, 1000.0)]
    assert [(size.seeds, size.steps) for size in sizes] == [(1, 4), (3, 12), (3, 30)]
