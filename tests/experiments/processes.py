"""Runs in processes of their own, to be killed.

Not in conftest: what a process is started with is found again by the name of its module, and conftests share one.
"""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.conftest import run_recipe

from taster.experiments import Recipe
from taster.experiments.running.progress import NoProgress
from taster.experiments.running.workers import worker_context


class _Reporting(NoProgress):
    """Sends the number of steps done to another process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def step(self, stage: str, steps: int, title: str) -> None:
        self._pipe.send(steps)


def run_and_report(recipe: Recipe, out: Path, jobs: int, cache: str, pipe: Connection) -> None:
    os.environ["TASTER_CACHE"] = cache
    run_recipe(recipe, out, jobs=jobs, resume=True, progress=_Reporting(pipe))
    pipe.close()


class StartedRun:
    """A run in a process of its own, to be killed."""

    def __init__(self, recipe: Recipe, out: Path, jobs: int) -> None:
        processes: Any = worker_context()
        self._pipe, theirs = processes.Pipe(duplex=False)
        self._process = processes.Process(
            target=run_and_report, args=(recipe, out, jobs, os.environ["TASTER_CACHE"], theirs)
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
