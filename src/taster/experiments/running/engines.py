"""What a recipe's federation runs on: this process, or Flower's simulation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from taster.errors import RecipeError, RunDirectoryError
from taster.experiments.environment import pick_device
from taster.experiments.recipes.schema import Recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.tasks import Task, recipe_data, run_task, set_up_torch
from taster.experiments.running.workers import Workers, open_workers
from taster.experiments.scenarios.build_federated import federated_section, make_gradients
from taster.experiments.scenarios.burn_in import make_model
from taster.utils.logging import suppress_log_messages

if TYPE_CHECKING:
    from flwr.serverapp import Grid

Engine = Literal["local", "flower"]
"""Clients computed all at once in the process of a cell, or each as a node of Flower's simulation on Ray."""


def choose_engine(asked: str | None, recipe: Recipe, run: RunDirectory) -> Engine:
    """The engine of a run: as asked, or what the run that is there is on, or the local one.

    Results of the two differ by rounding, so that a run stays on the one that it was begun on.

    Raises:
        RecipeError: for an engine that there is not, or one for federations with a recipe without.
        RunDirectoryError: when the run that is there is on another.
        ExtraError: where the engine is not installed.
    """
    if asked is not None and asked not in get_args(Engine):
        raise RecipeError(f"engine: got {asked!r}, wanted one of {', '.join(get_args(Engine))}")
    there = run.environment().get("engine", "local") if run.complete() else None
    if asked is not None and there is not None and asked != there:
        raise RunDirectoryError(
            f"{run.path}: the run there is on the engine {there!r}, got {asked!r}; go on with --engine {there}, or "
            "begin anew in another directory"
        )
    if (asked or there or "local") == "local":
        return "local"
    if recipe.federated is None:
        raise RecipeError(
            f"{recipe.name}: got the engine 'flower' with a recipe of one stream, wanted one with [federated]; "
            "run it with --engine local"
        )
    _silence()
    from taster.integrations.flower.simulation_session import require_ray

    require_ray()
    return "flower"


@contextmanager
def on_engine(engine: Engine, jobs: int, cells: int, recipe: Recipe, directory: str) -> Iterator[Workers]:
    """Whatever does the tasks of a run: `jobs` processes, those of Ray where that is the engine."""
    if engine == "flower":
        yield FlowerWorkers(recipe, directory, jobs)
        return
    with open_workers(min(jobs, cells or 1), recipe, directory) as pool:
        yield pool


class FlowerWorkers:
    """One Flower simulation for all cells of a run: its nodes are the seats of a round's clients. Burn-ins, which have
    no clients, are done in this process."""

    def __init__(self, recipe: Recipe, directory: str, jobs: int) -> None:
        self._recipe = recipe
        self._directory = directory
        self._jobs = jobs

    def do(self, tasks: list[Task], on_step: Callable[[Task], None], on_done: Callable[[Task], None]) -> None:
        """In the order given.

        Raises:
            WorkerError: when a node fails, or the engine ends before the cells.
        """
        cells = [task for task in tasks if task.attack is not None]
        for task in tasks:
            if task.attack is None:
                run_task(task, self._recipe, self._directory, partial(on_step, task))
                on_done(task)
        if not cells:
            return
        _silence()
        from taster.integrations.flower import FlowerSimulation, simulate, simulated_clients_app

        def main(grid: Grid) -> None:
            for task in cells:
                simulation = partial(FlowerSimulation, grid=grid)
                run_task(task, self._recipe, self._directory, partial(on_step, task), simulation)
                on_done(task)

        recipe = self._recipe
        device, data = pick_device(recipe.compute.device), recipe_data(recipe)
        app = simulated_clients_app(
            partial(_model, recipe, data.shape, data.classes),
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


def _model(recipe: Recipe, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The recipe's model in a process of Ray's; its weights come with every message."""
    device = pick_device(recipe.compute.device)
    set_up_torch(recipe.compute.threads or 1, device)
    return make_model(recipe, shape, classes, device)


def _silence() -> None:
    """A run tells nobody outside of itself: before Flower and Ray are imported, as they look once."""
    for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        os.environ.setdefault(name, "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
