"""Runs that stop anywhere go on to the same results."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import Rows, files_without_times, run_recipe, without_times
from tests.experiments.conftest import Stop

from taster.errors import RecipeError, RunDirectoryError
from taster.experiments import read_recipe


@pytest.mark.parametrize("after", [1, 30, 41, 45, 50, 58])
def test_a_run_killed_anywhere_resumes_to_the_same_bits(
    after: int, reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(str(tiny_recipe))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "run", progress=Stop(after))
    rows = run_recipe(recipe, tmp_path / "run", resume=True)
    assert without_times(rows) == without_times(reference[1])
    assert files_without_times(tmp_path / "run") == files_without_times(reference[0])


@pytest.mark.parametrize(
    "left", [["recipe.toml"], [".recipe.toml.77.part"], ["recipe.toml", ".environment.json.77.part"]]
)
def test_a_run_killed_while_it_began_resumes(
    left: list[str], reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        whole = reference[0] / name
        (tmp_path / "run" / name).write_bytes(whole.read_bytes() if whole.exists() else b"half")
    rows = run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "run", resume=True)
    assert without_times(rows) == without_times(reference[1])
    assert (tmp_path / "run" / "environment.json").is_file()


def test_resuming_where_there_is_nothing_starts(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(tiny_recipe), ["seeds=[0]"])
    assert len(run_recipe(recipe, tmp_path / "missing", resume=True)) == 4
    (tmp_path / "empty").mkdir()
    assert len(run_recipe(recipe, tmp_path / "empty", resume=True)) == 4


def test_another_recipe_is_not_resumed(reference: tuple[Path, Rows], tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"burn_in.epochs: got 3, the run has 2"):
        run_recipe(read_recipe(str(tiny_recipe), ["burn_in.epochs=3"]), reference[0], resume=True)


def test_a_full_disk_is_told_and_the_run_resumes(
    reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
