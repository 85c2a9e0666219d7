"""Runs that are stopped or killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import run_recipe

from taster.experiments import Recipe
from taster.experiments.running.progress import NoProgress
from taster.experiments.running.workers import worker_context


class Stop(NoProgress):
    """Stops the run after so many steps, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, stage: str, steps: int, title: str) -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


class _Reporting(NoProgress):
    """Sends the number of steps done to another process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def step(self, stage: str, steps: int, title: str) -> None:
        self._pipe.send(steps)


def _run_and_report(recipe: Recipe, out: Path, jobs: int, cache: str, pipe: Connection) -> None:
    os.environ["TASTER_CACHE"] = cache
    run_recipe(recipe, out, jobs=jobs, resume=True, progress=_Reporting(pipe))
    pipe.close()


class StartedRun:
    """A run in a process of its own, to be killed."""

    def __init__(self, recipe: Recipe, out: Path, jobs: int) -> None:
        processes: Any = worker_context()
        self._pipe, theirs = processes.Pipe(duplex=False)
        self._process = processes.Process(
            target=_run_and_report, args=(recipe, out, jobs, os.environ["TASTER_CACHE"], theirs)
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_for_steps(self, steps: int) -> None:
        while steps > 0:
            assert self._pipe.poll(120), "the run makes no steps"
            try:
                steps -= self._pipe.recv()
            except EOFError:
                return

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


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
