"""`taster report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taster.cli.app import AsJson, Quiet, to_path
from taster.cli.console import progress_display
from taster.cli.tables import print_outcome


def report(
    directory: Annotated[
        Path,
        typer.Argument(
            parser=to_path,
            metavar="PATH",
            help="A run directory, finished or not, or a result that is kept, such as results/mnist.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=to_path,
            metavar="PATH",
            help="Folder to write the page and figures to; by default the directory itself.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the page and figures of a run, and print its table."""
    from taster.experiments import RunDirectory
    from taster.report import write_report

    run = RunDirectory(directory)
    recipe = run.recipe()
    with progress_display(quiet) as progress:
        progress.add_task("report", total=None)
        page = write_report(run, out)
    found = run.results()
    print_outcome(recipe, found["rows"], page, quiet=quiet, as_json=as_json, failed=found.get("failed", []))
