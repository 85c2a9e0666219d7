"""The results that are kept: complete, small, readable today, and enough to make their pages from."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from taster.cli import app
from taster.experiments import RunDirectory
from taster.experiments.recipes.registry import find_factory
from taster.report.data import ReportData

RESULTS = Path(__file__).parent.parent.parent / "results"
FILES = {"recipe.toml", "environment.json", "results.json", "details.json", "pictures.json", "overview.png"}
MADE = {"report.html", "figures"}  # what `taster report` adds, which git ignores
KEPT = sorted(path.parent.name for path in RESULTS.glob("*/recipe.toml"))
SMALL = ["pang-table-2-small", "yang-fig-3-small", "zhu-table-6-small"]
LIMIT = 100_000
ROWS_LIMIT = 256_000


def test_many_results_are_kept() -> None:
    assert len(KEPT) > 40
    assert set(SMALL) <= set(KEPT)


@pytest.mark.parametrize("name", KEPT)
def test_a_result_has_its_small_files_and_nothing_else(name: str) -> None:
    assert {file.name for file in (RESULTS / name).iterdir()} - MADE == FILES
    for file in FILES:
        assert (RESULTS / name / file).stat().st_size <= (ROWS_LIMIT if file == "results.json" else LIMIT), file


@pytest.mark.parametrize("name", KEPT)
def test_a_result_can_be_read_today(name: str) -> None:
    data = ReportData.read(RunDirectory(RESULTS / name))
    cells = {(row["attack"], row["defence"], row["seed"]): row for row in data.rows}
    assert {cell[0] for cell in cells} <= set(data.attacks)
    assert {cell[1] for cell in cells} <= set(data.defences)
    assert len(cells) == len(data.rows) <= data.expected_rows
    kept = data.details.cells if data.recipe.offline is None else data.details.trainings
    curves = {(curve.attack, curve.defence, curve.seed): curve.test_accuracy for curve in kept}
    assert curves.keys() == cells.keys()
    for cell, row in cells.items():
        if data.recipe.offline is None:
            assert curves[cell][0] == pytest.approx(row["acc_start"], abs=1e-3)
            assert curves[cell][-1] == pytest.approx(row["acc_after"], abs=1e-3)
        else:
            assert curves[cell][-1] == pytest.approx(row["accuracy"], rel=1e-3)
    for entry in data.pictures.samples:
        assert entry.attack in data.attacks
        assert len(data.pictures.pair(entry)[0]) >= 1
    for attack in {entry.attack for entry in data.details.refusals}:
        assert attack in data.attacks


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_recipe_names_what_defaults_have_changed_since(name: str) -> None:
    """So that it runs as it did: crafting once took inner products with the poison's own gradient as it was."""
    for entry in tomllib.loads((RESULTS / name / "recipe.toml").read_text())["attack"]:
        known = find_factory("attack", entry["name"]).settings.model_fields
        assert {"normalize_poisoned"} & set(known) <= set(entry), entry["label"]


def report(name: str, out: Path) -> str:
    found = CliRunner().invoke(app, ["report", str(RESULTS / name), "--out", str(out), "--quiet", "--json"])
    assert found.exit_code == 0, found.output
    rows = json.loads((RESULTS / name / "results.json").read_text())["rows"]
    assert json.loads(found.stdout)["rows"] == rows
    return (out / "report.html").read_text()


@pytest.mark.parametrize("name", SMALL)
def test_the_command_makes_a_results_page(name: str, tmp_path: Path) -> None:
    before = {file.name for file in (RESULTS / name).iterdir()}
    page = report(name, tmp_path)
    assert f"<h1>{name}</h1>" in page
    assert ("What the poison did" if name.startswith("offline") else "Accuracy by step") in page
    assert ("How the poison was crafted" in page) == name.startswith("yang")
    assert {file.name for file in (RESULTS / name).iterdir()} == before


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(set(KEPT) - set(SMALL)))
def test_the_command_makes_every_page(name: str, tmp_path: Path) -> None:
    assert f"<h1>{name}</h1>" in report(name, tmp_path)
