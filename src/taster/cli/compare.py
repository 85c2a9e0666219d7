"""`taster compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from taster.cli.app import AsJson, to_path
from taster.cli.console import result_console


def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(
            parser=to_path, metavar="PATH...", help="Run directories; the first is what others are compared with."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: what each attack did against each defence, mean and standard deviation over seeds."""
    from taster.experiments import RunDirectory
    from taster.report.compare import compare_runs, compared_quantity

    results: list[tuple[str, Any]] = [(str(path), RunDirectory(path).results()) for path in directories]
    quantity, lines = compared_quantity(results), compare_runs(results)
    if as_json:
        typer.echo(json.dumps(lines))
        return
    table = Table(title=quantity, title_justify="left")
    table.add_column("attack")
    table.add_column("defence")
    for i, path in enumerate(directories):
        table.add_column(str(path), justify="right")
        if i:
            table.add_column("difference", justify="right")
    for line in lines:
        table.add_row(line["attack"], line["defence"], *_cells(line["runs"]))
    result_console().print(table)


def _cells(entries: list[dict[str, Any] | None]) -> list[str]:
    """The drop in each run, and from the second on its difference to the first."""
    cells = []
    for i, entry in enumerate(entries):
        cells.append("–" if entry is None else entry["text"])
        if i:
            difference = None if entry is None else entry["difference"]
            cells.append("–" if difference is None else f"{difference:+.1f}".replace("-", "−"))
    return cells
