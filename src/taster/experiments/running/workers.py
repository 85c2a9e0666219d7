"""Tasks done one after the other in this process, or several at once in others."""

from __future__ import annotations

import multiprocessing
import os
import queue as queues
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, Protocol

from taster.errors import WorkerError
from taster.experiments.environment import pick_device
from taster.experiments.recipes.schema import Recipe
from taster.experiments.running.tasks import Task, run_task, set_up_torch
from taster.utils.allocator import retain_freed_memory


class Workers(Protocol):
    """Something that does tasks."""

    def do(self, tasks: list[Task], on_step: Callable[[Task], None], on_done: Callable[[Task], None]) -> None:
        """Does all of them; tells of every step, and of every task that is done."""


class InProcess:
    """This process."""

    def __init__(self, recipe: Recipe, directory: str) -> None:
        self._recipe = recipe
        self._directory = directory

    def do(self, tasks: list[Task], on_step: Callable[[Task], None], on_done: Callable[[Task], None]) -> None:
        """In the order given."""
        for task in tasks:
            run_task(task, self._recipe, self._directory, lambda task=task: on_step(task))  # type: ignore[misc]
            on_done(task)


class ProcessPool:
    """A pool of processes, kept for all stages of a run."""

    def __init__(self, pool: ProcessPoolExecutor, ticks: Any, recipe: Recipe, directory: str) -> None:
        self._pool = pool
        self._ticks = ticks
        self._recipe = recipe
        self._directory = directory

    def do(self, tasks: list[Task], on_step: Callable[[Task], None], on_done: Callable[[Task], None]) -> None:
        """In whatever order they end.

        Raises:
            WorkerError: when a process ended without a result.
        """
        try:
            futures: dict[Future[None], Task] = {
                self._pool.submit(_perform, task, self._recipe, self._directory): task for task in tasks
            }
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                self._hear(on_step)
                for future in done:
                    future.result()
                    on_done(futures[future])
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process ended without a result (out of memory, or killed); "
                "go on with --resume, perhaps with fewer --jobs"
            ) from error

    def _hear(self, on_step: Callable[[Task], None]) -> None:
        while True:
            try:
                on_step(self._ticks.get_nowait())
            except queues.Empty:
                return


@contextmanager
def open_workers(jobs: int, recipe: Recipe, directory: str) -> Iterator[Workers]:
    """As many workers as asked for; 1 is this process. None is left behind, whatever happens."""
    if jobs == 1:
        yield InProcess(recipe, directory)
        return
    context = multiprocessing.get_context("spawn")
    ticks: Any = context.Queue()
    pool = ProcessPoolExecutor(jobs, context, initializer=_set_up, initargs=(ticks, recipe))
    try:
        yield ProcessPool(pool, ticks, recipe, directory)
    finally:
        # On an error or Ctrl-C nobody waits for half-done cells: they are done anew when the run is resumed.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


_ticks: Any = None


def _set_up(ticks: Any, recipe: Recipe) -> None:
    global _ticks
    _ticks = ticks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    retain_freed_memory()
    set_up_torch(recipe.compute.threads or 1, pick_device(recipe.compute.device))


def _end_with_parent() -> None:
    """A run that is killed outright leaves no worker behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _perform(task: Task, recipe: Recipe, directory: str) -> None:
    run_task(task, recipe, directory, lambda: _ticks.put(task))
