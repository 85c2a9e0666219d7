"""The page: whole in one file, and true to the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from taster.errors import RunDirectoryError
from taster.experiments import RunDirectory, read_recipe, run_recipe
from taster.experiments.running.progress import NoProgress
from taster.report import result_table, summarize, write_report
from taster.report.figures import attack_color


def test_a_dollar_sign_in_a_label_is_no_formula(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with(('name = "accumulative"', 'name = "accumulative"\nlabel = "$x_{$"'))
    run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run", jobs=1)
    assert "$x_{$" in write_report(RunDirectory(tmp_path / "run")).read_text()


def test_the_page_loads_nothing(run: RunDirectory) -> None:
    page = (run.path / "report.html").read_text()
    for address in re.findall(r'(?:src|href|srcset)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page):
        assert address.startswith(("data:", "#"))
    assert "<script" not in page
    assert "@import" not in page


def test_the_page_shows_rows_curves_versions_and_recipe(run: RunDirectory) -> None:
    page = (run.path / "report.html").read_text()
    assert "&lt;tiny&gt; &amp; co" in page
    for line in summarize(run.results()["rows"]):
        attack, *cells = result_table([line], undefended="none")[1][0]
        assert f'<th scope="row" class="text">{attack}</th>' in page
        for cell in cells:
            assert f">{cell}</td>" in page
    assert "<dt>derivatives</dt><dd>finite_difference (accumulative; small)</dd>" in page
    for part in (
        "difference ×",
        "Accuracy by step",
        "prefers-color-scheme: dark",
        "torch",
        "pgd_steps = 2",
        "fewer than three seeds",
    ):
        assert part in page
    assert len(list((run.path / "figures").glob("*.svg"))) == 2 * (2 + 2 + 5)


def test_the_same_run_gives_the_same_page(run: RunDirectory) -> None:
    before = (run.path / "report.html").read_bytes()
    write_report(run)
    assert (run.path / "report.html").read_bytes() == before


def test_refusals_are_listed_with_their_reason(tmp_path: Path, recipe_with: Callable[..., Path]) -> None:
    path = recipe_with(
        ('"probe_gate"', '"probe_gate"\ntolerance = 0.0'),
        ("steps = 2", "steps = 6"),
        ("epsilon = 0.2", "epsilon = 0.9"),
    )
    run = RunDirectory(tmp_path / "run")
    run_recipe(read_recipe(str(path), ["seeds=[0]"]), run.path, jobs=1)
    assert sum(r["rejected"] for r in run.results()["rows"]) > 0
    page = write_report(run).read_text()
    assert "would fall by" in page


def test_colors_do_not_repeat_with_many_attacks() -> None:
    assert len({attack_color(i) for i in range(24)}) == 24


class StopAfter(NoProgress):
    """Interrupts a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, stage: str, steps: int, title: str) -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


def test_an_unfinished_run_is_reported_as_far_as_it_has_come(tmp_path: Path, tiny_recipe: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(read_recipe(str(tiny_recipe)), run.path, progress=StopAfter(48), jobs=1)
    assert "cells are missing" in write_report(run).read_text()


def test_a_run_without_a_finished_cell_has_no_page(tmp_path: Path, tiny_recipe: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "run", progress=StopAfter(2), jobs=1)
    with pytest.raises(RunDirectoryError, match="no cell is finished"):
        write_report(RunDirectory(tmp_path / "run"))
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        write_report(RunDirectory(tmp_path))
