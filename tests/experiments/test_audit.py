"""taster audit: from a model and data of the user's own to a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taster.errors import CheckpointError, DataError, ModelError, RecipeError
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
        ({"weights": "model.pt"}, CheckpointError, "safetensors"),
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
    with pytest.raises(ModelError, match="--resize"):
        Audit(AuditRequest("torch.nn:Identity", "digits"), NoProgress(), print)


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


def test_a_longer_budget_makes_a_larger_suite() -> None:
    speed = Speed(guarded_step=0.01, pgd_step=0.01)
    sizes = [stream_size(speed, seconds, 4, 2, 1, None) for seconds in (1.0, 20.0, 1000.0)]
    assert [(size.seeds, size.steps) for size in sizes] == [(1, 4), (3, 12), (3, 30)]
