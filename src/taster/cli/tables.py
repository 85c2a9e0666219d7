"""Tables of results on the console."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from taster.cli.console import message_console, print_message, result_console

if TYPE_CHECKING:
    from taster.experiments import Recipe
    from taster.experiments.results import AnyRow, FailedCell


def print_outcome(
    recipe: Recipe,
    rows: Sequence[AnyRow],
    page: Path | None,
    *,
    quiet: bool,
    as_json: bool,
    failed: Sequence[FailedCell] = (),
) -> None:
    """Prints what a run or a report ends with: the table and the page's path, and the rows as JSON if asked for; also
    where it is quiet, which cells failed."""
    if as_json:
        typer.echo(json.dumps({"recipe": recipe.name, "rows": rows, **({"failed": list(failed)} if failed else {})}))
    if not quiet and rows:
        print_table(recipe, rows, message_console() if as_json else result_console(), failed)
    for cell in failed:
        print_message(f"failed: {cell['attack']} × {cell['defence']}, seed {cell['seed']}: {cell['reason']}")
    if not quiet and page is not None:
        print_message(f"The page: {page}")


def print_table(
    recipe: Recipe,
    rows: Sequence[Any],
    console: Console,
    failed: Sequence[FailedCell] = (),
    title: str | None = None,
) -> None:
    """Prints the table of results, and what its columns mean.

    Args:
        recipe: of the run.
        rows: of its results.
        console: to print to.
        failed: cells without a result.
        title: beside the recipe's name. Default: what the table is of.
    """
    if recipe.offline is None:
        from taster.report import legend, result_table, summarize

        told, lines = "what one trigger step did", summarize(rows, recipe.published)
        headings, texts = result_table(lines, narrow=True, published=bool(recipe.published))
        explained = legend(published=bool(recipe.published), backdoor=any(line.asr is not None for line in lines))
    else:
        from taster.report import honest_label, offline_legend, offline_table, summarize_offline, undefended_label

        told = "what the poison did"
        controls = honest_label(recipe), undefended_label(recipe)
        headings, texts = offline_table(summarize_offline(rows, recipe.published, *controls), failed, narrow=True)
        explained = offline_legend(headings)
    table = Table(
        title=f"{recipe.name}: {title or told}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=i == 2, overflow="fold")
    attack = ""
    for cells in texts:
        table.add_row("" if cells[0] == attack else cells[0], *cells[1:])
        attack = cells[0]
    console.print(table)
    message_console().print(explained, style="dim")
