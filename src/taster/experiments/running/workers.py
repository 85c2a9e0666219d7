"""Tasks done one after the other in this process, or several at once in others."""

from __future__ import annotations

import multiprocessing
import os
import queue as queues
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from typing import Any, Protocol

from taster.errors import WorkerError
from taster.experiments.environment import pick_device
from taster.experiments.running.tasks import Job, Task, run_task, set_up_torch
from taster.utils.allocator import retain_freed_memory


class TaskListener(Protocol):
    """Receives the progress of tasks."""

    def on_step(self, task: Task) -> None:
        """Called after every step of a task."""

    def on_done(self, task: Task) -> None:
        """Called after a task has left its files."""


class Workers(Protocol):
    """Something that does tasks."""

    def run(self, tasks: list[Task], listener: TaskListener) -> None:
        """Does all of them."""


class InProcess:
    """Does tasks in this process, in the order given."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def run(self, tasks: list[Task], listener: TaskListener) -> None:
        """Does all of them."""
        for task in tasks:
            run_task(task, self._job, partial(listener.on_step, task))
            listener.on_done(task)


class ProcessPool:
    """Does tasks in a pool of processes, kept for all stages of a run, in whatever order they end."""

    def __init__(self, pool: ProcessPoolExecutor, ticks: Any, job: Job) -> None:
        self._pool = pool
        self._ticks = ticks
        self._job = job

    def run(self, tasks: list[Task], listener: TaskListener) -> None:
        """Does all of them.

        Raises:
            WorkerError: if a process ends without a result.
        """
        try:
            futures: dict[Future[None], Task] = {self._pool.submit(_run_task, task, self._job): task for task in tasks}
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                self._report_steps(listener)
                for future in done:
                    future.result()
                    listener.on_done(futures[future])
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process ended without a result (out of memory, or killed); "
                "go on with --resume, perhaps with fewer --jobs"
            ) from error

    def _report_steps(self, listener: TaskListener) -> None:
        while True:
            try:
                listener.on_step(self._ticks.get_nowait())
            except queues.Empty:
                return


@contextmanager
def open_workers(jobs: int, job: Job) -> Iterator[Workers]:
    """Starts as many worker processes as asked for; 1 is this process. None is left behind, whatever happens."""
    if jobs == 1:
        yield InProcess(job)
        return
    context: Any = worker_context()
    ticks: Any = context.Queue()
    pool = ProcessPoolExecutor(jobs, context, initializer=_set_up, initargs=(ticks, job, dict(os.environ)))
    try:
        yield ProcessPool(pool, ticks, job)
    finally:
        # After an error or Ctrl-C nobody waits for half-done cells: resuming the run does them again.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def worker_context() -> BaseContext:
    """How workers are started: forked by a server that has imported everything and computed nothing or, on Windows, as
    processes that each import it. Neither inherits what this process has computed, as a plain fork would."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["taster.experiments", "torch._dynamo"])  # torch's optimizers import the latter
    return context


def start_worker_server() -> None:
    """Starts the server that workers are forked by, if there is to be one, and returns at once: it imports everything
    while this process does something else."""
    if worker_context().get_start_method() == "forkserver":
        forkserver.ensure_running()


_ticks: Any = None


def _set_up(ticks: Any, job: Job, environment: dict[str, str]) -> None:
    global _ticks
    _ticks = ticks
    os.environ.update(environment)  # a server's is that of the moment when it was started
    threading.Thread(target=_end_with_parent, daemon=True).start()
    retain_freed_memory()
    set_up_torch(job.recipe.compute, pick_device(job.recipe.compute.device))


def _end_with_parent() -> None:
    """Ends the worker with the run's process, also if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run_task(task: Task, job: Job) -> None:
    run_task(task, job, lambda: _ticks.put(task))
