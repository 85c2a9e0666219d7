"""What a recipe runs on: this machine's processes, the machines of a Ray cluster, or Flower's simulation."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from taster.errors import ExtraError, RecipeError, RunDirectoryError
from taster.experiments.environment import pick_device
from taster.experiments.recipes.schema import Recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.cluster import Cluster
from taster.experiments.running.tasks import Job, Task, load_recipe_data, run_task, set_up_torch
from taster.experiments.running.workers import TaskListener, Workers, open_workers
from taster.experiments.scenarios.burn_in import make_model
from taster.experiments.scenarios.federated import FederatedRounds, federated_section, make_gradients
from taster.utils.logging import suppress_log_messages

if TYPE_CHECKING:
    from flwr.serverapp import Grid

Engine = Literal["local", "ray", "flower"]
"""Tasks are done by processes of this machine or of a Ray cluster's; or a federation's clients are computed each as a
node of Flower's simulation."""

_SAME_BITS = ("local", "ray")


def choose_engine(asked: str | None, recipe: Recipe, run: RunDirectory) -> Engine:
    """Chooses the engine of a run: the one asked for, or that of the run in the directory, or the local one.

    Flower's results differ from the others' by rounding, so a run with it stays on it. The local processes and Ray's
    come to the same bits, and a run may go from one to the other.

    Raises:
        RecipeError: for an unknown engine, or Flower with a recipe that is not federated.
        RunDirectoryError: if the run in the directory is on the other engine.
        ExtraError: if the engine is not installed.
    """
    if asked is not None and asked not in get_args(Engine):
        raise RecipeError(f"engine: got {asked!r}, wanted one of {', '.join(get_args(Engine))}")
    there = run.environment().get("engine", "local") if run.complete() else None
    if asked is not None and there is not None and asked != there and not {asked, there} <= set(_SAME_BITS):
        raise RunDirectoryError(
            f"{run.path}: the run there is on the engine {there!r}, got {asked!r}; go on with --engine {there}, or "
            "start in another directory"
        )
    chosen = asked or there or "local"
    if chosen == "local":
        return "local"
    if chosen == "ray":
        require_ray()
        _turn_telemetry_off()
        return "ray"
    if recipe.federated is None:
        raise RecipeError(
            f"{recipe.name}: got the engine 'flower' with a recipe of one stream, wanted one with [federated]; "
            "run it with --engine local"
        )
    _turn_telemetry_off()
    from taster.integrations.flower.simulation_session import require_ray as require_ray_for_flower

    require_ray_for_flower()
    return "flower"


def require_ray() -> None:
    """Raises ExtraError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ExtraError('the engine ray is not installed; install the extra: pip install "taster[ray]"')


@contextmanager
def reach_engine(engine: Engine, cluster: Cluster) -> Iterator[None]:
    """Has what a run needs of other machines at hand: on Ray, the connection to the cluster.

    Raises:
        WorkerError: if the cluster is not there.
    """
    if engine == "ray":
        cluster.check_address()
        from taster.experiments.running.ray_cluster import connect

        with connect(cluster.address):
            yield
        return
    yield


@contextmanager
def open_engine(engine: Engine, jobs: int, cells: int, job: Job, cluster: Cluster) -> Iterator[Workers]:
    """Starts what does the tasks of a run: worker processes here or, once it is reached, on the nodes of a Ray cluster,
    or Flower's simulation.

    Args:
        engine: of the run.
        jobs: processes; no more are started than there are cells.
        cells: how many are to be done.
        job: of the run.
        cluster: for Ray.

    Raises:
        WorkerError: if the cluster does not fit the run.
    """
    if engine == "ray":
        from taster.experiments.running.ray_workers import make_ray_workers

        yield make_ray_workers(cluster, job)
        return
    if engine == "flower":
        yield FlowerWorkers(job, jobs)
        return
    with open_workers(min(jobs, cells or 1), job) as workers:
        yield workers


class FlowerWorkers:
    """Does cells in one Flower simulation, whose nodes are the clients of a round. Burn-ins, which have no clients, are
    done in this process. Tasks are done in the order given.

    Args:
        job: of the run.
        jobs: processes that the nodes share.
    """

    def __init__(self, job: Job, jobs: int) -> None:
        self._job = job
        self._jobs = jobs

    def run(self, tasks: list[Task], listener: TaskListener) -> None:
        """Does all of them.

        Raises:
            WorkerError: if a node fails, or the simulation ends before the cells do.
        """
        cells = [task for task in tasks if task.attack is not None]
        for task in tasks:
            if task.attack is None:
                run_task(task, self._job, partial(listener.on_step, task))
                listener.on_done(task)
        if not cells:
            return
        _turn_telemetry_off()
        from taster.integrations.flower import FlowerSimulation, simulate, simulated_clients_app

        def main(grid: Grid) -> None:
            make_simulation = partial(FlowerSimulation, grid=grid)
            for task in cells:
                make_scenario = partial(FederatedRounds, make_simulation=make_simulation)
                run_task(task, self._job, partial(listener.on_step, task), make_scenario)
                listener.on_done(task)

        recipe = self._job.recipe
        device, data = pick_device(recipe.compute.device), load_recipe_data(recipe)
        app = simulated_clients_app(
            partial(_make_model, recipe, data.shape, data.classes),
            partial(make_gradients, recipe),
            precision=recipe.compute.precision,
        )
        with suppress_log_messages("flwr", logging.CRITICAL):  # what nodes raise is raised here
            simulate(
                main,
                app,
                nodes=federated_section(recipe).clients_per_round,
                workers=self._jobs,
                gpus=1 / self._jobs if device.type == "cuda" else 0.0,
            )


def _make_model(recipe: Recipe, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Makes the recipe's model in one of Ray's processes; its weights come with every message."""
    device = pick_device(recipe.compute.device)
    set_up_torch(recipe.compute, device)
    return make_model(recipe, shape, classes, device)


def _turn_telemetry_off() -> None:
    """Keeps Flower and Ray from sending statistics of use. Both look at the environment once, when imported."""
    for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        os.environ.setdefault(name, "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
