"""A whole run: burn-ins, then the cells of the grid, in this process or in several; resumable at any moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from taster.errors import RecipeError
from taster.experiments.environment import available_cores, describe_environment, pick_device
from taster.experiments.recipes.schema import Recipe
from taster.experiments.results import AnyRow
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.claim import Claim
from taster.experiments.running.cluster import Cluster
from taster.experiments.running.dry_run import dry_run
from taster.experiments.running.engines import Engine, choose_engine, open_engine, reach_engine
from taster.experiments.running.progress import NoProgress, Progress, StageProgress
from taster.experiments.running.tasks import Job, pending_tasks, set_up_torch
from taster.experiments.scenarios.context import BurntIn
from taster.utils.flat import flat


def run_recipe(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    jobs: int | None = None,
    engine: str | None = None,
    ray_address: str | None = None,
    burnt_in: Mapping[int, BurntIn] | None = None,
    progress: Progress | None = None,
) -> list[AnyRow]:
    """Runs every cell of a recipe and leaves all of it in a directory.

    Args:
        recipe: what to run.
        out: the run directory; made if missing.
        resume: continue a run of the same recipe in the directory, or start one if there is none.
        jobs: worker processes; None picks as many as the recipe's threads leave room for, one on a GPU; on Ray, as many
            as the cluster has room for.
        engine: what it runs on: "local", the nodes of a cluster ("ray") or, for a federation, "flower"; None is that of
            the run in the directory, else local.
        ray_address: HOST:PORT of the Ray cluster's head, or "auto"; None is the one that runs on this machine, else one
            started for the run.
        burnt_in: states by seed of burn-ins that were made before, by this recipe; the others are made.
        progress: receives the progress of the run.

    Returns:
        the rows of results.json.

    Raises:
        RecipeError, DataError, ModelError, AttackError, CheckpointError: for faults of the recipe, before anything is
            written.
        RunDirectoryError: if another process runs in the directory, or it holds something else or a run on another
            engine, or it cannot be written.
        ExtraError: if the engine is not installed.
        WorkerError: if a worker process dies, or Ray's cluster is not there or does not fit the run.
    """
    progress = progress or NoProgress()
    run = RunDirectory(out)
    with Claim(run, resume=resume) as claim:
        if claim.resumed:
            recipe = _same_recipe(recipe, run)
        chosen = choose_engine(engine, recipe, run)
        if ray_address is not None and chosen != "ray":
            raise RecipeError(
                f"ray_address: got {ray_address!r} with the engine {chosen!r}, wanted --engine ray with it"
            )
        cluster = Cluster(ray_address, at_once=jobs)
        device = pick_device(recipe.compute.device)
        recipe, jobs = share_cores(recipe, device, jobs)
        with torch_set_up(recipe, device):
            burn_in_batches = len(dry_run(recipe, progress).roles["burn_in"]) // recipe.burn_in.batch_size
            with reach_engine(chosen, cluster):
                if not claim.resumed:
                    claim.begin_new()
                if not run.complete():
                    run.begin(recipe, describe_environment(device, recipe.compute.threads or 1, jobs, chosen))
                for seed, state in (burnt_in or {}).items():
                    if not run.has_burn_in(seed):
                        run.write_burn_in(seed, state)
                return _run_stages(recipe, run, jobs, chosen, cluster, burn_in_batches, progress)


def _run_stages(
    recipe: Recipe,
    run: RunDirectory,
    jobs: int,
    engine: Engine,
    cluster: Cluster,
    burn_in_batches: int,
    progress: Progress,
) -> list[AnyRow]:
    """Does the burn-ins and the cells that are still to be done."""
    burn_ins, cells = pending_tasks(recipe, run, burn_in_batches)
    with open_engine(engine, jobs, len(cells), Job(recipe, str(run.path)), cluster) as workers:
        for stage, tasks in (("burn-in", burn_ins), ("attacks × defences", cells)):
            if tasks:
                workers.run(tasks, StageProgress(stage, tasks, recipe, run, progress))
    run.gather_steps(recipe)
    return run.gather(recipe)


@contextmanager
def torch_set_up(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Sets torch up as the recipe says, and afterwards as it was."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    set_up_torch(recipe.compute, device)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict, warn_only=warns)


def _same_recipe(recipe: Recipe, run: RunDirectory) -> Recipe:
    """The recipe of the run in the directory.

    Raises:
        RecipeError: if it is not the one asked for, with every key that differs.
    """
    there = run.recipe()
    compute, kept = recipe.compute, there.compute
    asked = recipe.with_compute(
        device=kept.device if compute.device == "auto" else compute.device,
        threads=compute.threads or kept.threads or 1,
    )
    if asked != there:
        old, new = flat(there.to_dict()), flat(asked.to_dict())
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        changes = "\n".join(f"  {key}: got {new.get(key)!r}, the run has {old.get(key)!r}" for key in keys)
        raise RecipeError(f"{run.path}: the run there is of another recipe; resume it with its own:\n{changes}")
    return there


def share_cores(recipe: Recipe, device: torch.device, jobs: int | None) -> tuple[Recipe, int]:
    """Decides the number of processes and of threads in each, if left open."""
    cores = available_cores()
    threads = recipe.compute.threads
    if jobs is None:
        jobs = 1 if device.type != "cpu" or threads is None else max(1, cores // threads)
    if threads is None:
        threads = max(1, cores // jobs)
    return recipe.with_compute(device=device.type if device.index is None else str(device), threads=threads), jobs
