"""Progress reporting."""

from __future__ import annotations

from typing import Protocol

from taster.experiments.recipes.schema import Recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.tasks import Task


class Progress(Protocol):
    """Receives the progress of a run."""

    def begin(self, stage: str, steps: int) -> None:
        """A stage of so many steps begins."""

    def step(self, stage: str, steps: int, title: str) -> None:
        """So many more steps of a stage are done, the last of them in the task of this title."""


class NoProgress:
    """Ignores progress."""

    def begin(self, stage: str, steps: int) -> None:
        """Does nothing."""

    def step(self, stage: str, steps: int, title: str) -> None:
        """Does nothing."""


class StageProgress:
    """Turns the progress of a stage's tasks into that of the run, and writes results.json after every cell.

    Args:
        stage: its name.
        tasks: all that the stage does.
        recipe: of the run.
        run: its directory.
        progress: of the run.
    """

    def __init__(self, stage: str, tasks: list[Task], recipe: Recipe, run: RunDirectory, progress: Progress) -> None:
        self._stage = stage
        self._recipe = recipe
        self._run = run
        self._progress = progress
        self._taken = dict.fromkeys(tasks, 0)
        progress.begin(stage, sum(task.steps for task in tasks))

    def on_step(self, task: Task) -> None:
        """Reports one step."""
        self._advance(task, 1)

    def on_done(self, task: Task) -> None:
        """Reports the steps that a phase which ended early left out."""
        self._advance(task, task.steps - self._taken[task])
        del self._taken[task]
        if task.attack is not None:
            self._run.gather(self._recipe)

    def _advance(self, task: Task, steps: int) -> None:
        if task in self._taken:  # a worker's last step can arrive after its result
            self._taken[task] += steps
            self._progress.step(self._stage, steps, task.title(self._recipe))


class DecodingProgress:
    """Reports the decoding of images; each split of a data set is a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._stages = 0
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """So many of so many images are decoded."""
        if not self._stage or done < self._done:
            self._stages += 1
            self._stage = f"decode images, part {self._stages}"
            self._progress.begin(self._stage, total)
            self._done = 0
        self._progress.step(self._stage, done - self._done, f"{total} images")
        self._done = done
