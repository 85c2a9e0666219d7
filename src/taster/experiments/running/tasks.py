"""The units of work that a run is made of, as a worker process does them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from taster.data import ImageSet, OnProgress, load_images, split_roles
from taster.errors import DataError, RunDirectoryError
from taster.experiments.environment import pick_device
from taster.experiments.recipes.schema import Recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.scenarios.burn_in import burn_in, surrogate_recipe
from taster.experiments.scenarios.burn_in_cache import cached_burn_in
from taster.experiments.scenarios.federated import run_federated_cell
from taster.experiments.scenarios.online import run_cell
from taster.federated import Simulation
from taster.utils.logging import suppress_log_messages


@dataclass(frozen=True)
class Task:
    """A seed's burn-in, or one cell of the grid (attack and defence by their place in the recipe).

    Attributes:
        steps: how many steps it takes at most, for the progress bar.
    """

    seed: int
    steps: int
    attack: int | None = None
    defence: int | None = None

    def title(self, recipe: Recipe) -> str:
        """For people."""
        if self.attack is None or self.defence is None:
            return f"burn-in, seed {self.seed}"
        return f"{recipe.attack[self.attack].label} × {recipe.defence[self.defence].label}, seed {self.seed}"


def pending_tasks(recipe: Recipe, run: RunDirectory, burn_in_batches: int) -> tuple[list[Task], list[Task]]:
    """The burn-ins and the cells that are still to be done."""
    burn_ins = [
        Task(seed, recipe.burn_in.epochs * burn_in_batches * (1 + len(recipe.surrogate)))
        for seed in recipe.seeds
        if not run.has_burn_in(seed)
    ]
    steps = recipe.schedule.dormant + recipe.schedule.steps + 1
    cells = [
        Task(seed, steps, a, d)
        for seed in recipe.seeds
        for a, attack in enumerate(recipe.attack)
        for d, defence in enumerate(recipe.defence)
        if not run.cell(attack.label, defence.label, seed).done()
    ]
    return burn_ins, cells


def run_task(
    task: Task,
    recipe: Recipe,
    directory: str,
    on_step: Callable[[], None],
    simulation_of: Callable[..., Simulation] = Simulation,
) -> None:
    """Does one task and leaves its files in the run directory; a federation's rounds with the simulation given."""
    with (
        suppress_log_messages("taster.core.learner"),
        suppress_log_messages("taster.federated"),
    ):  # what is refused here is in steps.jsonl
        _perform(task, recipe, directory, on_step, simulation_of)


def _perform(
    task: Task,
    recipe: Recipe,
    directory: str,
    on_step: Callable[[], None],
    simulation_of: Callable[..., Simulation],
) -> None:
    data = recipe_data(recipe)
    device = pick_device(recipe.compute.device)
    roles = split_roles(data, recipe.split.sizes(), task.seed)
    run = RunDirectory(directory)
    if task.attack is None or task.defence is None:
        images = roles["burn_in"]

        def burnt_in(recipe: Recipe, seed: int) -> dict[str, Any]:
            return cached_burn_in(
                recipe, images, seed, device, lambda: burn_in(recipe, data, images, seed, device, on_step)
            )

        state = burnt_in(recipe, task.seed)
        if recipe.surrogate:
            state["surrogates"] = {
                section.label: burnt_in(surrogate_recipe(recipe, section), task.seed + section.seed_offset)["model"]
                for section in recipe.surrogate
            }
        run.write_burn_in(task.seed, state)
        return
    attack, defence = recipe.attack[task.attack], recipe.defence[task.defence]
    state = run.burn_in(task.seed)
    if state is None:
        raise RunDirectoryError(f"{directory}: the burn-in of seed {task.seed} is missing; go on with --resume")
    out = run.cell(attack.label, defence.label, task.seed)
    if recipe.federated is None:
        run_cell(recipe, data, roles, state, attack, defence, task.seed, device, out, on_step)
    else:
        run_federated_cell(recipe, data, roles, state, attack, defence, task.seed, device, out, on_step, simulation_of)


def set_up_torch(threads: int, device: torch.device) -> None:
    """Threads as the recipe says; on a GPU kernels that give the same bits every time, and float32 that is float32."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


_loaded: dict[tuple[str, str | None, str | None, str | None], ImageSet] = {}


def recipe_data(recipe: Recipe, on_progress: OnProgress | None = None) -> ImageSet:
    """The recipe's data set, loaded once a process.

    Raises:
        DataError: see `taster.data.load_images`.
    """
    section = recipe.data
    key = (section.source, section.config, section.image, section.label)
    if key not in _loaded:
        try:
            found = load_images(
                section.source,
                config=section.config,
                image=section.image,
                label=section.label,
                on_progress=on_progress,
            )
        except DataError as error:
            raise DataError(f"data.source: {error}") from error
        _loaded.clear()  # one at a time: a data set can be large
        _loaded[key] = found
    return _loaded[key]
