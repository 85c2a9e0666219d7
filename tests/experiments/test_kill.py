"""Runs killed outright at any moment go on to the same results and steps, and leave no process behind."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Rows, files_without_times, run_recipe, without_times
from tests.experiments.conftest import StartedRun

from taster.experiments import Recipe, read_recipe

STEPS = 40 + 8 * 3
"""Of the tiny recipe: two burn-ins, eight cells."""

Start = Callable[[Recipe, Path, int], StartedRun]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_run_resumes_to_the_same_results_and_steps(
    jobs: int,
    thorough: bool,
    reference: tuple[Path, Rows],
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_run: Start,
) -> None:
    recipe, draws = read_recipe(str(tiny_recipe)), random.Random(jobs)
    for moment in range(30 if thorough else 2):
        monkeypatch.setenv("TASTER_CACHE", str(tmp_path / f"cache-{moment}"))  # burn-ins are killed too
        out = tmp_path / f"run-{moment}"
        run = start_run(recipe, out, jobs)
        run.wait_for_steps(draws.randrange(1, STEPS))
        time.sleep(draws.uniform(0, 0.02))  # somewhere within a step
        run.kill()
        rows = run_recipe(recipe, out, resume=True, jobs=jobs if thorough else 1)
        assert without_times(rows) == without_times(reference[1])
        assert files_without_times(out) == files_without_times(reference[0])


def test_a_run_killed_again_and_again_still_ends_the_same(
    thorough: bool, reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path, start_run: Start
) -> None:
    recipe, draws = read_recipe(str(tiny_recipe)), random.Random(3)
    for _ in range(10 if thorough else 3):
        run = start_run(recipe, tmp_path / "run", 1)
        run.wait_for_steps(draws.randrange(1, 12))
        run.kill()
    assert without_times(run_recipe(recipe, tmp_path / "run", resume=True)) == without_times(reference[1])
    assert files_without_times(tmp_path / "run") == files_without_times(reference[0])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for open files in /proc")
def test_a_run_that_is_killed_leaves_no_worker_behind(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_run: Start
) -> None:
    monkeypatch.chdir(tmp_path)
    held = tmp_path / "held"
    held.write_text("")
    (tmp_path / "holding.py").write_text(HOLDING.format(path=str(held)))
    text = tiny_recipe.read_text().replace('"digits"', '"holding:data"').replace("epochs = 2", "epochs = 100000")
    tiny_recipe.write_text(text)  # a data set that every process which loads it holds a file open for; no run that ends
    run = start_run(read_recipe(str(tiny_recipe)), tmp_path / "run", 2)
    run.wait_for_steps(50)
    assert len(_holders(held)) == 3
    run.kill()
    end = time.monotonic() + 30
    while _holders(held):
        assert time.monotonic() < end, "workers went on"
        time.sleep(0.1)


HOLDING = """
from taster.data import load_images
kept = open({path!r})
def data():
    return load_images("digits")
"""


def _holders(held: Path) -> set[str]:
    """Processes that hold a file open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(held):
                found.add(link.parts[2])
    return found
