"""A whole run: burn-ins, then the cells of the grid, in this process or in several; resumable at any moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taster.data import Images, Role, as_batch, split_roles
from taster.errors import RecipeError, RunDirectoryError
from taster.experiments.environment import describe_environment, pick_device
from taster.experiments.recipes.schema import Recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.choose_derivatives import choose_derivatives
from taster.experiments.running.engines import choose_engine, on_engine
from taster.experiments.running.progress import NoProgress, Progress
from taster.experiments.running.tasks import Task, pending_tasks, recipe_data, set_up_torch
from taster.experiments.running.workers import Workers
from taster.experiments.scenarios.build_federated import dry_run_federation
from taster.experiments.scenarios.build_online import make_campaign, make_guard, make_score
from taster.experiments.scenarios.burn_in import build_model, load_weights, surrogate_recipe


def run_recipe(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    jobs: int | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Runs every cell of a recipe and leaves all of it in a directory.

    Args:
        recipe: what to run.
        out: the run directory; made if missing.
        resume: goes on with a run of the same recipe that is there; where there is none, starts.
        jobs: worker processes; None picks as many as the recipe's threads leave room for, one on a GPU.
        engine: what a federation runs on, "local" or "flower"; None goes on with that of the run that is there, and
            else is local.
        progress: receives the progress of the run.

    Returns:
        the rows of results.json.

    Raises:
        RecipeError, DataError, ModelError, AttackError, CheckpointError: for faults of the recipe, told before
            anything is written.
        RunDirectoryError: when the directory holds something else, or a run on another engine, or cannot be written.
        ExtraError: when the engine is not installed.
        WorkerError: when a worker process died.
    """
    progress = progress or NoProgress()
    run = RunDirectory(out)
    going_on = resume and run.exists()
    if going_on:
        recipe = _same_recipe(recipe, run)
    elif not run.is_free():
        hint = "go on with --resume" if run.exists() else "it is not a run directory"
        raise RunDirectoryError(f"{out}: not empty ({hint}); wanted a new or empty directory")
    chosen = choose_engine(engine, recipe, run)
    device = pick_device(recipe.compute.device)
    recipe, jobs = _share_cores(recipe, device, jobs)
    threads = recipe.compute.threads or 1
    before = torch.get_num_threads()
    set_up_torch(threads, device)
    try:
        model, roles = _dry_run(recipe, device, progress)
        batches = len(roles["burn_in"]) // recipe.burn_in.batch_size
        recipe = choose_derivatives(recipe, model, roles, progress)
        del model, roles
        if not going_on or not run.complete():
            run.begin(recipe, describe_environment(device, threads, jobs, chosen))
        burn_ins, cells = pending_tasks(recipe, run, batches)
        with on_engine(chosen, jobs, len(cells), recipe, str(run.path)) as pool:
            for stage, tasks in (("burn-in", burn_ins), ("attacks × defences", cells)):
                if tasks:
                    _run_stage(stage, tasks, recipe, run, pool, progress)
        run.gather_steps(recipe)
        return run.gather(recipe)
    finally:
        torch.set_num_threads(before)


class _Decoding:
    """Tells the progress of images being decoded; a second split of a data set is a second stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._stages = 0
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        if not self._stage or done < self._done:
            self._stages += 1
            self._stage = f"decode images, part {self._stages}"
            self._progress.begin(self._stage, total)
            self._done = 0
        self._progress.step(self._stage, done - self._done, f"{total} images")
        self._done = done


def _dry_run(recipe: Recipe, device: torch.device, progress: Progress) -> tuple[nn.Module, dict[Role, Images]]:
    """Builds everything once, so that faults are told before hours are spent; the first seed's model and roles."""
    data = recipe_data(recipe, _Decoding(progress))
    seed = recipe.seeds[0]
    roles = split_roles(data, recipe.split.sizes(), seed)
    if recipe.federated is None and recipe.stream.batch_size > len(roles["stream"]):
        raise RecipeError(
            f"stream.batch_size: got {recipe.stream.batch_size}, wanted at most the {len(roles['stream'])} samples "
            "that are left for the stream"
        )
    model = build_model(recipe, data, seed, device)
    if recipe.burn_in.checkpoint is not None:
        for path in (*recipe.burn_in.earlier.values(), recipe.burn_in.checkpoint):
            load_weights(model, path)
    probe, trigger = (as_batch(roles[role].select(torch.arange(1))).to(device) for role in ("probe", "trigger"))
    if recipe.federated is not None:
        dry_run_federation(recipe, roles, probe, trigger, seed)
    else:
        for defence in recipe.defence:
            make_guard(recipe, defence, probe, seed)
        for attack in recipe.attack:
            make_campaign(recipe, roles, trigger, attack, seed)
    for entry in recipe.score:
        make_score(recipe, entry, probe)
    for section in recipe.surrogate:
        build_model(surrogate_recipe(recipe, section), data, seed, device)
    return model, roles


def _same_recipe(recipe: Recipe, run: RunDirectory) -> Recipe:
    """The recipe of the run that is there, after making sure that it is the one asked for."""
    there = run.recipe()
    compute, kept = recipe.compute, there.compute
    asked = recipe.computed_with(
        device=kept.device if compute.device == "auto" else compute.device,
        threads=compute.threads or kept.threads or 1,
        derivatives=kept.derivatives if compute.way is None else compute.derivatives,
    )
    if asked != there:
        old, new = _flat(there.to_dict()), _flat(asked.to_dict())
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        changes = "\n".join(f"  {key}: got {new.get(key)!r}, the run has {old.get(key)!r}" for key in keys)
        raise RecipeError(f"{run.path}: the run there is of another recipe; resume it with its own:\n{changes}")
    return there


def _share_cores(recipe: Recipe, device: torch.device, jobs: int | None) -> tuple[Recipe, int]:
    """Decides what is left open of threads a process and processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = recipe.compute.threads
    if jobs is None:
        jobs = 1 if device.type != "cpu" or threads is None else max(1, cores // threads)
    if threads is None:
        threads = max(1, cores // jobs)
    return recipe.computed_with(device=device.type if device.index is None else str(device), threads=threads), jobs


def _run_stage(
    stage: str, tasks: list[Task], recipe: Recipe, run: RunDirectory, pool: Workers, progress: Progress
) -> None:
    """Does all tasks of a stage; results.json grows with every finished cell."""
    progress.begin(stage, sum(task.steps for task in tasks))
    taken = dict.fromkeys(tasks, 0)

    def advance(task: Task, steps: int = 1) -> None:
        if task in taken:  # a worker's last word can come after its result
            taken[task] += steps
            progress.step(stage, steps, task.title(recipe))

    def finish(task: Task) -> None:
        advance(task, task.steps - taken[task])  # what a phase that ended early left out
        del taken[task]
        if task.attack is not None:
            run.gather(recipe)

    pool.do(tasks, advance, finish)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {k: v for key, inner in items for k, v in _flat(inner, f"{path}.{key}" if path else str(key)).items()}
