"""The units of work that a run is made of, as a worker process does them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from taster.data import ImageSet, OnProgress, Table, load_images, split_roles
from taster.errors import AttackError, BatchError, DataError, DefenceError, RunDirectoryError
from taster.experiments.cell_directory import CellDirectory
from taster.experiments.environment import pick_device
from taster.experiments.recipes.schema import Compute, Defence, Entry, Recipe
from taster.experiments.results import AnyLine
from taster.experiments.run_directory import RunDirectory
from taster.experiments.scenarios import OfflineCell, scenario_of
from taster.experiments.scenarios.burn_in import burn_in, surrogate_recipe
from taster.experiments.scenarios.burn_in_cache import cached_burn_in
from taster.experiments.scenarios.context import BurntIn, CellContext, SeedContext
from taster.experiments.scenarios.scenario import Scenario, run_cell
from taster.experiments.scenarios.tables import hold_recipe_table, load_recipe_table, table_roles
from taster.utils.logging import suppress_log_messages

MakeScenario = Callable[[CellContext], Scenario]


@dataclass(frozen=True)
class Job:
    """What every task of a run needs to know.

    Attributes:
        recipe: of the run.
        directory: of the run.
    """

    recipe: Recipe
    directory: str


@dataclass(frozen=True)
class Task:
    """A seed's burn-in, or one cell of the grid (attack and defence by their place in the recipe).

    Attributes:
        steps: how many it takes at most, for the progress bar.
    """

    seed: int
    steps: int
    attack: int | None = None
    defence: int | None = None

    def title(self, recipe: Recipe) -> str:
        """A title for people."""
        if self.attack is None or self.defence is None:
            return f"burn-in, seed {self.seed}"
        return f"{recipe.attack[self.attack].label} × {recipe.defence[self.defence].label}, seed {self.seed}"


def pending_tasks(recipe: Recipe, run: RunDirectory, burn_in_batches: int) -> tuple[list[Task], list[Task]]:
    """The burn-ins and the cells that are still to be done."""
    burn_ins = [
        Task(seed, recipe.burn_in.epochs * burn_in_batches * (1 + len(recipe.surrogate)))
        for seed in recipe.seeds
        if (recipe.offline is None or recipe.offline.burns_in) and not run.has_burn_in(seed)
    ]
    steps = recipe.schedule.dormant + recipe.schedule.steps + 1 if recipe.offline is None else recipe.offline.epochs
    cells = [
        Task(seed, steps, a, d)
        for seed in recipe.seeds
        for a, attack in enumerate(recipe.attack)
        for d, defence in enumerate(recipe.defence)
        if not run.cell(attack.label, defence.label, seed).done()
    ]
    return burn_ins, cells


def run_task(task: Task, job: Job, on_step: Callable[[], None], make_scenario: MakeScenario | None = None) -> None:
    """Does one task and leaves its files in the run directory.

    Args:
        task: a burn-in or a cell.
        job: of the run.
        on_step: called after every step.
        make_scenario: makes a cell's scenario; by default the one that the recipe asks for.
    """
    context = seed_context(job.recipe, task.seed)
    run = RunDirectory(job.directory)
    # What is refused is in steps.jsonl, and need not be logged.
    with suppress_log_messages("taster.core.learner"), suppress_log_messages("taster.federated"):
        if task.attack is None or task.defence is None:
            run.write_burn_in(task.seed, _burn_in_with_surrogates(context, on_step))
        else:
            attack, defence = job.recipe.attack[task.attack], job.recipe.defence[task.defence]
            if job.recipe.offline is None:
                _run_cell(context, attack, defence, run, on_step, make_scenario or scenario_of(job.recipe))
            else:
                _run_offline_cell(context, attack, defence, run, on_step)


def seed_context(recipe: Recipe, seed: int, on_progress: OnProgress | None = None) -> SeedContext:
    """Loads the recipe's data and splits it for a seed.

    Raises:
        DataError: if the data cannot be loaded or are too few.
    """
    device = pick_device(recipe.compute.device)
    if recipe.data.table is not None:
        table = load_recipe_table(recipe)
        check_class_names(recipe, len(table.class_names))
        return SeedContext(recipe, *table_roles(table, recipe, seed), seed, device)
    data = load_recipe_data(recipe, on_progress)
    roles = split_roles(data, recipe.split_sizes(), seed, burn_in_seed=recipe.burn_in.split_seed)
    return SeedContext(recipe, data, roles, seed, device)


def set_up_torch(compute: Compute, device: torch.device) -> None:
    """Sets the number of threads and, on a GPU, whether only kernels may be used that give the same bits each time."""
    torch.set_num_threads(compute.threads or 1)
    if device.type == "cuda":
        if compute.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(compute.deterministic)


_loaded: dict[str, ImageSet] = {}


def load_recipe_data(recipe: Recipe, on_progress: OnProgress | None = None) -> ImageSet:
    """Loads the recipe's data set, once in a process.

    Raises:
        DataError: see `taster.data.load_images`.
    """
    section, key = recipe.data, _data_key(recipe)
    if key not in _loaded:
        try:
            found = load_images(
                section.source,
                config=section.config,
                image=section.image,
                label=section.label,
                layout=section.layout,
                resize=None if section.resize is None else (section.resize[0], section.resize[1]),
                color=section.color,
                on_progress=on_progress,
            )
        except DataError as error:
            raise DataError(f"data.source: {error}") from error
        _loaded.clear()  # one at a time: a data set can be large
        _loaded[key] = found
    check_class_names(recipe, _loaded[key].classes)
    return _loaded[key]


def recipe_data(recipe: Recipe) -> ImageSet | Table:
    """The recipe's images or table, loaded once in a process.

    Raises:
        DataError: if they cannot be loaded.
    """
    return load_recipe_data(recipe) if recipe.data.table is None else load_recipe_table(recipe)


def hold_recipe_data(recipe: Recipe, data: ImageSet | Table) -> None:
    """Has this process use data that another has loaded, so that it needs no file of them."""
    if isinstance(data, Table):
        hold_recipe_table(recipe, data)
    else:
        _loaded.clear()
        _loaded[_data_key(recipe)] = data


def _data_key(recipe: Recipe) -> str:
    return recipe.data.model_dump_json(exclude={"class_names"})


def check_class_names(recipe: Recipe, classes: int) -> None:
    """Raises DataError if the recipe names more or fewer classes than the data have."""
    names = recipe.data.class_names
    if names is not None and len(names) != classes:
        raise DataError(f"data.class_names: got {len(names)} names, wanted one for each of the {classes} classes")


def _burn_in_with_surrogates(context: SeedContext, on_step: Callable[[], None]) -> BurntIn:
    state = cached_burn_in(context, lambda: burn_in(context, on_step))
    if context.recipe.surrogate:
        surrogates = {}
        for section in context.recipe.surrogate:
            own = replace(
                context,
                recipe=surrogate_recipe(context.recipe, section),
                seed=context.seed + section.seed_offset,
            )
            surrogates[section.label] = cached_burn_in(own, lambda own=own: burn_in(own, on_step))["model"]  # type: ignore[misc]
        state["surrogates"] = surrogates
    return state


def _run_cell(
    context: SeedContext,
    attack: Entry,
    defence: Defence,
    run: RunDirectory,
    on_step: Callable[[], None],
    make_scenario: MakeScenario,
) -> None:
    burnt_in = _burnt_in(context, run)
    cell = CellContext(
        context.recipe, context.data, context.roles, context.seed, context.device, burnt_in, attack, defence
    )
    out = run.cell(attack.label, defence.label, context.seed)
    scenario = make_scenario(cell)
    write = _begin(out, on_step)
    result = run_cell(cell, scenario, write)
    out.finish(result.content(), result.images, result.scores)


def _run_offline_cell(
    context: SeedContext, attack: Entry, defence: Defence, run: RunDirectory, on_step: Callable[[], None]
) -> None:
    section = context.recipe.offline
    burnt_in = _burnt_in(context, run) if section is not None and section.burns_in else None
    out = run.cell(attack.label, defence.label, context.seed)
    write = _begin(out, on_step)
    try:
        result = OfflineCell(context, burnt_in, attack, defence, write).run()
    except (AttackError, BatchError, DataError, DefenceError) as error:
        # What this attack leaves is nothing that this defence can work with; others can, and go on.
        out.fail(str(error))
        return
    out.finish(result.content, result.images, None)


def _begin(out: CellDirectory, on_step: Callable[[], None]) -> Callable[[AnyLine], None]:
    """Begins a cell's files; returns what writes a line of it and counts the step."""
    out.begin()

    def write(line: AnyLine) -> None:
        out.append(line)
        on_step()

    return write


def _burnt_in(context: SeedContext, run: RunDirectory) -> BurntIn:
    """Raises RunDirectoryError if it is missing."""
    burnt_in: BurntIn | None = run.burn_in(context.seed)
    if burnt_in is None:
        raise RunDirectoryError(f"{run.path}: the burn-in of seed {context.seed} is missing; go on with --resume")
    return burnt_in
