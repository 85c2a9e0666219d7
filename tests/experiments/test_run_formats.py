"""Runs and recipes say their format: another one is refused before anything else is read or written."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from taster.core.format_version import KEY
from taster.errors import RecipeError, RunDirectoryError
from taster.experiments import read_recipe
from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.run_directory import RunDirectory
from taster.report.data import ReportData, collect_report_data

ROOT = Path(__file__).parents[2]
NEWER = "got .* of format 9, this taster reads up to 1: a newer one wrote it"


def kept(folder: Path) -> RunDirectory:
    """A copy of a kept result."""
    for source in (ROOT / "results" / "quickstart").iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    return RunDirectory(folder)


def marked(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def test_a_recipe_says_its_format_and_one_without_is_of_the_first(tmp_path: Path) -> None:
    recipe = read_recipe("quickstart")
    text = recipe.to_toml()
    assert tomllib.loads(text)[KEY] == 1
    (tmp_path / "same.toml").write_text(text)
    assert read_recipe(str(tmp_path / "same.toml")) == recipe
    assert parse_recipe({k: v for k, v in tomllib.loads(text).items() if k != KEY}) == recipe


def test_a_recipe_of_another_format_is_refused_before_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text(f"{KEY} = 9\nunheard_of = 1\n")
    with pytest.raises(RecipeError, match=rf"new\.toml: {NEWER}") as told:
        read_recipe(str(path))
    assert "unheard_of" not in str(told.value)
    (tmp_path / "mine.toml").write_text('extends = "new.toml"\n')
    with pytest.raises(RecipeError, match=rf"new\.toml: {NEWER}"):
        read_recipe(str(tmp_path / "mine.toml"))
    with pytest.raises(RecipeError, match=NEWER):
        read_recipe("quickstart", [f"{KEY}=9"])
    with pytest.raises(RecipeError, match=re.escape(f"got '1' as {KEY} of a recipe, wanted a whole number")):
        parse_recipe({KEY: "1"})


def test_what_a_run_begins_with_says_its_format(tmp_path: Path) -> None:
    run, there = RunDirectory(tmp_path), RunDirectory(ROOT / "results" / "quickstart")
    run.begin(there.recipe(), there.environment())
    run.write_results(there.recipe(), there.results()["rows"])
    assert json.loads((tmp_path / "environment.json").read_text())[KEY] == 1
    assert json.loads((tmp_path / "results.json").read_text())[KEY] == 1
    assert run.recipe() == there.recipe()
    assert run.results()["rows"] == there.results()["rows"]


def test_a_run_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = kept(tmp_path)
    marked(run.path / "environment.json", **{KEY: 9})
    (run.path / "recipe.toml").write_text("of = 'another form'\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for use in (run.recipe, run.environment, lambda: ReportData.read(run), lambda: collect_report_data(run)):
        with pytest.raises(RunDirectoryError, match=rf"environment\.json: {NEWER}"):
            use()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_results_of_a_newer_format_are_refused_before_their_shape(tmp_path: Path) -> None:
    run = kept(tmp_path)
    marked(run.path / "results.json", **{KEY: 9}, rows="of another form")
    with pytest.raises(RunDirectoryError, match=rf"results\.json: {NEWER}"):
        run.results()
    marked(run.path / "results.json", **{KEY: 1})
    with pytest.raises(RunDirectoryError, match="is not what taster run writes"):
        run.results()


def test_all_kept_results_can_be_read() -> None:
    folders = [path.parent for path in (ROOT / "results").glob("**/recipe.toml")]
    assert len(folders) > 50
    for folder in folders:
        run = RunDirectory(folder)
        assert run.recipe().name
        assert run.results()["rows"]
        assert run.environment()["taster"]
