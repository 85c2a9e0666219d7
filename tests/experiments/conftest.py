"""Runs that are stopped or killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.experiments.processes import StartedRun

from taster.experiments import Recipe
from taster.experiments.running.progress import NoProgress


class Stop(NoProgress):
    """Stops the run after so many steps, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, stage: str, steps: int, title: str) -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.fixture
def start_run() -> Iterator[Callable[[Recipe, Path, int], StartedRun]]:
    """Starts runs that are killed at the end of the test at the latest."""
    started: list[StartedRun] = []

    def start(recipe: Recipe, out: Path, jobs: int) -> StartedRun:
        started.append(StartedRun(recipe, out, jobs))
        return started[-1]

    yield start
    for run in started:
        run.kill()
