"""`taster compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.measure import Measurement

from taster.cli.app import AsJson, to_path
from taster.cli.console import result_console
from taster.cli.folding import fold
from taster.cli.tables import attack_table

_NAME_WIDTH = 14
"""Of a run's name above its column: that of the numbers below it, so that two runs fit into 80 characters."""

_UNLIMITED = 10_000
"""Characters: more than any table is wide."""


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
    console = result_console()
    rows = [[line["attack"], line["defence"], *_cells(line["runs"])] for line in lines]
    table = attack_table(quantity, _headings([str(path) for path in directories]), rows, console.width)
    needed = Measurement.get(console, console.options.update(max_width=_UNLIMITED), table).maximum
    if needed > console.width:  # Many runs: the terminal wraps lines, where rich would cut the columns.
        table.width = needed
    console.print(table, crop=False)


def _headings(names: list[str]) -> list[str]:
    """Of the columns: the name of each run whole, in lines broken where a path is, and from the second on the
    difference."""
    headings = ["attack", "defence"]
    for i, name in enumerate(names):
        headings.append(fold(name, _NAME_WIDTH))
        if i:
            headings.append("difference")
    return headings


def _cells(entries: list[dict[str, Any] | None]) -> list[str]:
    """The drop in each run, and from the second on its difference to the first."""
    cells = []
    for i, entry in enumerate(entries):
        cells.append("–" if entry is None else entry["text"])
        if i:
            difference = None if entry is None else entry["difference"]
            cells.append("–" if difference is None else f"{difference:+.1f}".replace("-", "−"))
    return cells
