"""The command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import taster
from taster.errors import TasterError

if TYPE_CHECKING:
    from taster.experiments import Recipe

app = typer.Typer(
    name="taster",
    help="Attack and guard models that keep learning after release.\n\n"
    "Start with: taster run. It needs no arguments and no download, takes about a minute, and ends with a table "
    "and a page.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
# Everything for people goes to stderr, so that stdout holds results alone and can be piped.
_messages = Console(stderr=True)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def main() -> None:
    """Entry point of the command: a user's mistake becomes one message and exit code 2."""
    try:
        app(standalone_mode=True)
    except TasterError as error:
        _messages.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(taster.__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Name of a shipped recipe (see: taster list) or path of a TOML file; quickstart by default."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one value of the recipe; repeat for more. Entries are named or numbered: "
            "--set burn_in.epochs=5 --set attack.accumulative.epsilon=0.1",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; by default a new one, runs/NAME, runs/NAME-2, and so on.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the directory (without --out: the latest of this recipe's), or start one where "
            "there is none. The results are the same as if it had never stopped.",
        ),
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Run seeds 0 to N-1 instead of the recipe's.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes; by default as many as fit the cores, one on a GPU."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="local|flower",
            help="What a recipe with [federated] runs on: this machine's processes, clients computed together (local, "
            "the default), or Flower's simulation on Ray, each client a node. To resume: the run's own.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: every attack against every defence, with every seed.

    Leaves a directory with recipe.toml, environment.json, steps.jsonl, results.json, figures/, report.html and the
    burnt-in checkpoints, and prints the table of results.
    """
    from taster.experiments import RunDirectory, read_recipe, run_recipe
    from taster.report import write_report
    from taster.utils.allocator import retain_freed_memory

    retain_freed_memory()
    wanted = [*(changes or []), *([] if seeds is None else [f"seeds={seeds}"])]
    if resume and recipe is None and out is not None and RunDirectory(out).exists():
        chosen = read_recipe(str(out / "recipe.toml"), wanted)
    else:
        chosen = read_recipe(recipe or "quickstart", wanted)
    directory = _directory(chosen.name, out, resume)
    with _progress(quiet) as progress:
        try:
            rows = run_recipe(chosen, directory, resume=resume, jobs=jobs, engine=engine, progress=_Bars(progress))
        except KeyboardInterrupt:
            _messages.print(f"stopped; go on with: taster run ... --resume --out {directory}", highlight=False)
            raise typer.Exit(130) from None
        task = progress.add_task("report", total=None)
        page = write_report(RunDirectory(directory))
        progress.remove_task(task)
    _close(chosen, rows, page, quiet=quiet, as_json=as_json)


@app.command(name="list")
def list_all(as_json: AsJson = False) -> None:
    """List attacks, defences, models and recipes, each with its source."""
    from taster.experiments.recipes.catalogue import catalogue

    entries = catalogue()
    if as_json:
        typer.echo(json.dumps(entries))
        return
    console = Console()
    for kind, members in entries.items():
        table = Table(title=kind, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        table.add_column("name", style="bold", no_wrap=True)
        table.add_column("what it is", ratio=3)
        table.add_column("source", ratio=2)
        for member in members:
            table.add_row(member["name"], member["summary"], member["source"])
        console.print(table)
        console.print()
    console.print("Your own: package.module:function in place of a name. Settings of a recipe: taster show RECIPE.")


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe or path of a TOML file.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Show it with a value changed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe whole, with every default filled in, as TOML that can be saved, changed and run."""
    from taster.experiments import read_recipe

    found = read_recipe(recipe, changes)
    typer.echo(json.dumps(found.to_dict()) if as_json else found.to_toml(), nl=as_json)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="A run directory, finished or not.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the page and figures of a run anew, and print its table."""
    from taster.experiments import RunDirectory
    from taster.report import write_report

    found = RunDirectory(directory)
    recipe = found.recipe()
    with _progress(quiet) as progress:
        progress.add_task("report", total=None)
        page = write_report(found)
    rows = [cell["row"] for cell in found.finished(recipe)]
    _close(recipe, rows, page, quiet=quiet, as_json=as_json)


@app.command()
def compare(
    directories: Annotated[
        list[Path], typer.Argument(help="Run directories; the first is what others are compared with.")
    ],
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: the drop of each attack against each defence, mean and standard deviation over seeds."""
    from taster.experiments import RunDirectory
    from taster.report.compare import compare_runs

    runs = [RunDirectory(directory) for directory in directories]
    lines = compare_runs([(str(run.path), run.results()) for run in runs])
    if as_json:
        typer.echo(json.dumps(lines))
        return
    table = Table(title="drop at the trigger step, points", title_justify="left")
    table.add_column("attack")
    table.add_column("defence")
    for i, run in enumerate(runs):
        table.add_column(str(run.path), justify="right")
        if i:
            table.add_column("difference", justify="right")
    for line in lines:
        cells = []
        for i, entry in enumerate(line["runs"]):
            cells.append("–" if entry is None else entry["text"])
            if i:
                difference = None if entry is None else entry["difference"]
                cells.append("–" if difference is None else f"{difference:+.1f}".replace("-", "−"))
        table.add_row(line["attack"], line["defence"], *cells)
    Console().print(table)


@app.command()
def quarantine(
    directory: Annotated[Path, typer.Argument(help="A folder that taster.Quarantine keeps.")],
    release: Annotated[
        list[str] | None,
        typer.Option(help="Let a batch go, by its id: Quarantine.released() gives it; repeat for more."),
    ] = None,
    discard: Annotated[list[str] | None, typer.Option(help="Delete a batch, by its id; repeat for more.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a PNG with pictures of what is in quarantine.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the batches that a guard refused, look at them, let them go or delete them."""
    from taster.core.quarantine import Quarantine
    from taster.errors import QuarantineError
    from taster.report.pictures import contact_sheet as draw

    if not directory.is_dir():
        raise QuarantineError(f"{directory}: no such folder, wanted one that taster.Quarantine keeps")
    found = Quarantine(directory)
    found.release(release or [])
    found.discard(discard or [])
    entries = found.entries()
    if sheet is not None:
        rows = [
            (f"{entry['id']}  step {entry['step']}  {entry['stage']}", found.batch(entry["id"])) for entry in entries
        ]
        try:
            sheet.write_bytes(draw([(title, batch.x, batch.y) for title, batch in rows]))
        except OSError as error:
            raise QuarantineError(f"{sheet}: cannot be written: {error.strerror or error}") from error
    if as_json:
        typer.echo(json.dumps(entries))
        return
    table = Table(title=f"{directory}: {len(entries)} in quarantine", title_justify="left", box=box.SIMPLE_HEAD)
    for heading, justify in (
        ("id", "left"),
        ("step", "right"),
        ("samples", "right"),
        ("stage", "left"),
        ("reason", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for entry in entries:
        cells = (entry["id"], entry["step"], entry["samples"], entry["stage"], entry["reason"])
        table.add_row(*(escape(str(cell)) for cell in cells))
    Console().print(table)
    if sheet is not None:
        _messages.print(f"The pictures: {sheet}", highlight=False, markup=False, soft_wrap=True)


def _directory(name: str, out: Path | None, resume: bool) -> Path:
    """Where the run goes: as asked, or the next free (to resume: the last used) of runs/NAME, runs/NAME-2, ..."""
    from taster.experiments import RunDirectory

    if out is not None:
        return out
    number, last = 1, Path("runs") / name
    while not RunDirectory(path := Path("runs") / (name if number == 1 else f"{name}-{number}")).is_free():
        number, last = number + 1, path
    return last if resume else path


def _close(recipe: Recipe, rows: list[dict[str, Any]], page: Path, *, quiet: bool, as_json: bool) -> None:
    """What a run or a report ends with: its results as JSON where asked for; the table and the page's path."""
    if as_json:
        typer.echo(json.dumps({"recipe": recipe.name, "rows": rows}))
    if not quiet:
        _show_results(recipe, rows, _messages if as_json else Console())
        _messages.print(f"The page: {page}", highlight=False, markup=False, soft_wrap=True)


def _show_results(recipe: Recipe, rows: list[dict[str, Any]], console: Console) -> None:
    from taster.report import legend, result_table, summarize

    table = Table(
        title=f"{recipe.name}: what one trigger step did",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )
    lines = summarize(rows, recipe.published)
    headings, texts = result_table(lines, narrow=True, published=bool(recipe.published))
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=i == 2, overflow="fold")
    attack = ""
    for cells in texts:
        table.add_row("" if cells[0] == attack else cells[0], *cells[1:])
        attack = cells[0]
    console.print(table)
    _messages.print(legend(published=bool(recipe.published)), style="dim", highlight=False)


class _Bars:
    """Shows a run's progress as bars with the time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def begin(self, stage: str, steps: int) -> None:
        self._bars[stage] = self._progress.add_task(stage, total=steps)

    def step(self, stage: str, steps: int, title: str) -> None:
        self._progress.update(self._bars[stage], advance=steps, description=f"{stage} ({title})")


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=_messages,
        disable=quiet,
    ) as progress:
        yield progress
