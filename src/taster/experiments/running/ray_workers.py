"""Tasks done by the machines of a Ray cluster. Ray says where and does again what a lost machine had begun."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from taster.errors import TasterError, WorkerError
from taster.experiments.environment import pick_device
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.cluster import Cluster
from taster.experiments.running.ray_cluster import check_nodes, check_versions, versions
from taster.experiments.running.tasks import Job, Task, hold_recipe_data, recipe_data, run_task, set_up_torch
from taster.experiments.running.user_modules import pack_user_modules, unpack_user_modules
from taster.experiments.running.workers import InProcess, TaskListener
from taster.utils.allocator import retain_freed_memory

_TRIES = 5
"""How often a task is done again whose machine was lost; one that kills its machine must not kill them all."""

_PAUSE = 0.25
"""Seconds between two looks at the progress, and between two reports of it."""


@dataclass(frozen=True)
class _Order:
    """What a node is told of a task.

    Attributes:
        task: to do.
        job: of the run; its directory is the head's and means nothing here.
        versions: of the head.
        shared: a reference to the data and the user's modules, fetched once by each process.
        burn_in: a reference to the bytes of the seed's burn-in; None if the task needs none.
    """

    task: Task
    job: Job
    versions: dict[str, str]
    shared: Any
    burn_in: Any


@dataclass(frozen=True)
class _Outcome:
    """What a task left: its files by name, or an error of ours to be raised on the head."""

    files: dict[str, bytes]
    error: TasterError | None = None


class RayWorkers:
    """Does tasks on a cluster that this process is connected to, in whatever order they end. The nodes get data, the
    user's modules and burn-ins from Ray's object store and send their files by it; this process alone writes into the
    run directory, so that the nodes share no disk. Burn-ins from checkpoints, whose files are here, are made here.

    Args:
        job: of the run.
        at_once: tasks under way at most; None is as many as there is room for.
    """

    def __init__(self, job: Job, at_once: int | None) -> None:
        self._job = job
        self._at_once = at_once
        self._run = RunDirectory(job.directory)
        recipe = job.recipe
        self._shared = ray.put((recipe_data(recipe), pack_user_modules(recipe)))
        self._versions = versions()
        self._burn_ins: dict[int, Any] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(_Progress)
        self._progress = actor.options(num_cpus=0, scheduling_strategy=here).remote()
        remote: Any = ray.remote(_do_task)
        cpus, gpus = _resources(job)
        self._do = remote.options(num_cpus=cpus, num_gpus=gpus, max_retries=_TRIES)

    def run(self, tasks: list[Task], listener: TaskListener) -> None:
        """Does all of them.

        Raises:
            WorkerError: if a task's machines are lost again and again, the cluster ends, or a task raises what is no
                error of taster's.
        """
        here = [task for task in tasks if task.attack is None and self._job.recipe.burn_in.checkpoint is not None]
        InProcess(self._job).run(here, listener)
        left = [task for task in tasks if task not in here]
        steps = _Steps(left, listener)
        under_way: dict[Any, Task] = {}
        try:
            while left or under_way:
                while left and (self._at_once is None or len(under_way) < self._at_once):
                    task = left.pop(0)
                    under_way[self._do.remote(self._order(task), self._progress)] = task
                done, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=_PAUSE)
                steps.report(ray.get(self._progress.take.remote()))
                for reference in done:
                    self._finish(under_way[reference], reference, listener)
                    del under_way[reference]
        except ray.exceptions.RayError as error:
            raise WorkerError(f"the Ray cluster ended or cannot be reached ({error}); go on with --resume") from error
        finally:
            # After an error or Ctrl-C nobody waits for half-done cells: resuming the run does them again.
            for reference in under_way:
                ray.cancel(reference, force=True)

    def _order(self, task: Task) -> _Order:
        needs_burn_in = task.attack is not None and self._run.has_burn_in(task.seed)
        if needs_burn_in and task.seed not in self._burn_ins:
            self._burn_ins[task.seed] = ray.put(self._run.burn_in_bytes(task.seed))
        return _Order(task, self._job, self._versions, self._shared, self._burn_ins.get(task.seed))

    def _finish(self, task: Task, reference: Any, listener: TaskListener) -> None:
        """Writes what a task left into the run directory, or raises what it raised."""
        title = task.title(self._job.recipe)
        try:
            outcome: _Outcome = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise WorkerError(f"{title}: raised {type(cause).__name__} on a node: {cause}") from error
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"{title}: lost with its machine or process {_TRIES + 1} times (out of memory, or killed): {error}; "
                "go on with --resume"
            ) from error
        if outcome.error is not None:
            raise outcome.error
        _write_files(task, self._job, self._run, outcome.files)
        listener.on_done(task)


def make_ray_workers(cluster: Cluster, job: Job) -> RayWorkers:
    """Checks that the cluster that this process is connected to fits the run.

    Args:
        cluster: asked for.
        job: of the run, whose user modules have been imported.

    Raises:
        WorkerError: if no node has room for a task, or versions differ.
        RecipeError: if the user's modules are too large.
    """
    check_nodes(*_resources(job))
    return RayWorkers(job, cluster.at_once)


class _Steps:
    """Reports steps to a listener. A task that is done again counts from 0 once more, which is told to nobody."""

    def __init__(self, tasks: list[Task], listener: TaskListener) -> None:
        self._made = dict.fromkeys(tasks, 0)
        self._listener = listener

    def report(self, made: dict[Task, int]) -> None:
        for task, steps in made.items():
            for _ in range(self._made[task], steps):
                self._listener.on_step(task)
            self._made[task] = max(self._made[task], steps)


class _Progress:
    """An actor beside the head, which every node tells how many steps of a task it has made."""

    def __init__(self) -> None:
        self._made: dict[Task, int] = {}

    def tell(self, task: Task, steps: int) -> None:
        self._made[task] = steps

    def take(self) -> dict[Task, int]:
        made, self._made = self._made, {}
        return made


class _Reporter:
    """Counts the steps of a task on its node, and tells the actor from time to time."""

    def __init__(self, task: Task, progress: Any) -> None:
        self._task = task
        self._progress = progress
        self._steps = 0
        self._told = 0.0

    def __call__(self) -> None:
        self._steps += 1
        if time.monotonic() - self._told >= _PAUSE:
            self._progress.tell.remote(self._task, self._steps)
            self._told = time.monotonic()


_ready_for: Any = None


def _do_task(order: _Order, progress: Any) -> _Outcome:
    """Does a task in a process of a node, with a run directory of its own that holds only what the task needs."""
    task = order.task
    try:
        check_versions(order.versions)
        _get_ready(order)
        with tempfile.TemporaryDirectory(prefix="taster-ray-") as folder:
            job, run = Job(order.job.recipe, folder), RunDirectory(folder)
            if order.burn_in is not None:
                run.write_burn_in_bytes(task.seed, ray.get(order.burn_in))
            run_task(task, job, _Reporter(task, progress))
            return _Outcome(_read_files(task, job, run))
    except TasterError as error:
        return _Outcome({}, error)


def _get_ready(order: _Order) -> None:
    """Sets this process up for a run, once."""
    global _ready_for
    if order.shared == _ready_for:
        return
    recipe = order.job.recipe
    data, modules = ray.get(order.shared)
    unpack_user_modules(modules)
    hold_recipe_data(recipe, data)
    retain_freed_memory()
    set_up_torch(recipe.compute, pick_device(recipe.compute.device))
    _ready_for = order.shared


def _read_files(task: Task, job: Job, run: RunDirectory) -> dict[str, bytes]:
    if task.attack is None or task.defence is None:
        content = run.burn_in_bytes(task.seed)
        assert content is not None
        return {_BURN_IN: content}
    recipe = job.recipe
    return run.cell(recipe.attack[task.attack].label, recipe.defence[task.defence].label, task.seed).contents()


def _write_files(task: Task, job: Job, run: RunDirectory, files: dict[str, bytes]) -> None:
    if task.attack is None or task.defence is None:
        run.write_burn_in_bytes(task.seed, files[_BURN_IN])
        return
    recipe = job.recipe
    run.cell(recipe.attack[task.attack].label, recipe.defence[task.defence].label, task.seed).write_contents(files)


_BURN_IN = "burn-in"


def _resources(job: Job) -> tuple[int, int]:
    """CPUs and GPUs of a task."""
    compute = job.recipe.compute
    return compute.threads or 1, 1 if pick_device(compute.device).type == "cuda" else 0
