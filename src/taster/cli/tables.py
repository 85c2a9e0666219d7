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
from taster.cli.folding import fold, longest_piece

if TYPE_CHECKING:
    from taster.experiments import Recipe
    from taster.experiments.results import AnyRow, FailedCell

_GAP = 2
"""Columns between two columns of a table, and in all at its edges."""

_INDENT = "  "
"""Of a defence under its attack."""


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
        from taster.report import legend, result_table, summarize, undefended_label

        told, lines = "what one trigger step did", summarize(rows, recipe.published)
        headings, texts = result_table(
            lines, narrow=True, published=bool(recipe.published), undefended=undefended_label(recipe)
        )
        explained = legend(headings)
    else:
        from taster.report import honest_label, offline_legend, offline_table, summarize_offline, undefended_label

        told = "what the poison did"
        controls = honest_label(recipe), undefended_label(recipe)
        headings, texts = offline_table(summarize_offline(rows, recipe.published, *controls), failed, narrow=True)
        explained = offline_legend(headings)
    console.print(attack_table(f"{recipe.name}: {title or told}", headings, texts, console.width))
    message_console().print(explained, style="dim")


def attack_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Attacks in a column of their own where there is room for their names, else each on a line above its defences.

    Args:
        title: above the table.
        headings: "attack", "defence", and of the columns that follow; broken at white space where that is needed.
        rows: of as many cells as there are headings; those of one attack follow each other.
        width: of the console, in characters. A table that cannot be that narrow is wider.
    """
    columns = list(zip(headings, *rows, strict=True))
    numbers = [max(map(len, [*heading.split(), *cells])) for heading, *cells in columns[2:]]
    left = width - sum(numbers) - _GAP * (len(numbers) + 1)
    attack, defence = (max(map(len, cells)) for cells in columns[:2])
    beside = attack + defence + _GAP <= left
    names = list(headings[:2]) if beside else ["attack, defence"]
    # At least what the longest piece of a name needs: a table that is too wide is better than one in pieces.
    pieces = [longest_piece(f"{_INDENT}{row[1]}" if not beside else row[1]) for row in rows]
    room = max(left, *pieces, *(longest_piece(row[0]) for row in rows), *map(longest_piece, names))
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True
    )
    for heading in names:
        table.add_column(heading, no_wrap=not beside)
    for heading, size in zip(headings[2:], numbers, strict=True):
        table.add_column(heading, justify="right", min_width=size)
    last = ""
    for row in rows:
        if beside:
            table.add_row("" if row[0] == last else row[0], *row[1:])
        else:
            if row[0] != last:
                table.add_row(fold(row[0], room))
            folded = fold(row[1], room - len(_INDENT))
            table.add_row("\n".join(_INDENT + line for line in folded.split("\n")), *row[2:])
        last = row[0]
    return table
