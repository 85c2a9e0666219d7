"""`taster run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taster.cli.app import AsJson, Quiet, to_path
from taster.cli.console import ProgressBars, print_message, print_nothing, progress_display
from taster.cli.tables import print_outcome
from taster.errors import RecipeError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from taster.experiments import Recipe

_MAX_JOBS = 1024


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Name of a shipped recipe (see: taster list) or path of a TOML file; quickstart by default."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one value of the recipe; repeat for more. Entries are named or numbered: "
            "--set burn_in.epochs=5 --set attack.accumulative.epsilon=0.1",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=to_path,
            metavar="PATH",
            help="Run directory; by default a new one, runs/NAME, runs/NAME-2, and so on.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in the directory (without --out: the latest of this recipe's), or start one if "
            "there is none. The results are the same as if it had never stopped.",
        ),
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Run seeds 0 to N-1 instead of the recipe's.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=_MAX_JOBS, help="Worker processes; by default as many as fit the cores, one on a GPU."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="local|ray|flower",
            help="What it runs on: this machine's processes (local, the default), the machines of a Ray cluster (ray), "
            "or, with [federated], Flower's simulation, each client a node. To resume: the run's own.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="Head of the Ray cluster; by default the one that runs on this machine, else one started for the run.",
        ),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="mlflow|tensorboard",
            help="Hand the finished cells to a tracking library, each as a run: settings, steps and row.",
        ),
    ] = None,
    track_to: Annotated[
        str | None,
        typer.Option(
            metavar="URI|PATH",
            help="MLflow's server or store, by default MLFLOW_TRACKING_URI's; TensorBoard's folder, by default "
            "tensorboard/ in the run directory.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe, by default quickstart: every attack against every defence, with every seed.

    Ends with 1 if a cell of an offline recipe came to no result; the others are there.

    Leaves a directory with recipe.toml, environment.json, steps.jsonl, results.json, figures/, report.html and the
    burnt-in checkpoints, and prints the table of results.
    """
    from taster.experiments import RunDirectory, run_recipe
    from taster.experiments.tracking import check_store, check_tracking, track_run
    from taster.utils.allocator import retain_freed_memory

    if track is not None:
        check_tracking(track)
    elif track_to is not None:
        raise RecipeError(f"track-to: got {track_to!r} without --track, wanted --track mlflow or --track tensorboard")
    retain_freed_memory()
    chosen = _choose_recipe(recipe, [*(overrides or []), *([] if seeds is None else [f"seeds={seeds}"])], out, resume)
    directory = choose_directory(chosen.name, out, resume)
    if track is not None:
        check_store(track, track_to)
    with progress_display(quiet) as progress:
        try:
            rows = run_recipe(
                chosen,
                directory,
                resume=resume,
                jobs=jobs,
                engine=engine,
                ray_address=ray_address,
                progress=ProgressBars(progress),
            )
        except KeyboardInterrupt:
            print_message(f"stopped; go on with: taster run ... --resume --out {directory}")
            raise typer.Exit(130) from None
        failed = RunDirectory(directory).failures(chosen)
        page = write_page(directory, progress) if rows or not failed else None
    print_outcome(chosen, rows, page, quiet=quiet, as_json=as_json, failed=failed)
    if track is not None:  # last: the results are told even if the library's server has gone
        added = track_run(RunDirectory(directory), track, track_to)
        (print_nothing if quiet else print_message)(f"{track}: {added} cells added")
    if failed:
        raise typer.Exit(1)


def write_page(directory: Path, progress: RichProgress) -> Path:
    """Writes the page of a run, which takes seconds, and shows that it does."""
    from taster.experiments import RunDirectory
    from taster.report import write_report

    task = progress.add_task("report", total=None)
    page = write_report(RunDirectory(directory))
    progress.remove_task(task)
    return page


def _choose_recipe(recipe: str | None, overrides: list[str], out: Path | None, resume: bool) -> Recipe:
    """The recipe asked for, or that of the run to be continued, or quickstart."""
    from taster.experiments import RunDirectory, read_recipe

    if resume and recipe is None and out is not None and RunDirectory(out).exists():
        return read_recipe(str(out / "recipe.toml"), overrides)
    return read_recipe("quickstart" if recipe is None else recipe, overrides)


def choose_directory(name: str, out: Path | None, resume: bool) -> Path:
    """The directory asked for, or the next free (to resume: the last used) of runs/NAME, runs/NAME-2, ..."""
    from taster.experiments import RunDirectory

    if out is not None:
        return out
    number, last = 1, Path("runs") / name
    while not RunDirectory(path := Path("runs") / (name if number == 1 else f"{name}-{number}")).is_free():
        number, last = number + 1, path
    return last if resume else path
