"""`taster results`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from taster.cli.app import AsJson, to_path
from taster.cli.console import print_message, result_console
from taster.cli.folding import fold

if TYPE_CHECKING:
    from taster.experiments.kept_results import KeptResult

_UNKNOWN = "?"
_COMMIT = 10
"""Digits of a commit."""
_BY_SETTINGS, _BY_FILES = "settings", "files"
"""By what a result can be stale; one whose recipe cannot be read today is by its settings."""
_GAP = 2
"""Columns between two columns of the table."""
_LEAST = 12
"""Columns that a name has at least."""


def results(
    directory: Annotated[
        Path | None,
        typer.Argument(
            parser=to_path,
            metavar="[PATH]",
            help="A folder of results that are kept, by default results; or one of them, of which every difference is "
            "then listed.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the results that are kept, and which are stale: made by other settings or other code than today's.

    Settings are compared with the library's recipe of the same name; code by the files of taster's source that the
    recipe's run uses (its own stages and all that they import, core, data, experiments) and that have changed since
    the result's commit.
    """
    from taster.experiments.checkout import source_checkout
    from taster.experiments.kept_results import kept_results

    folder = Path("results") if directory is None else directory
    checkout = source_checkout()
    found = kept_results(folder, checkout)
    if checkout is None:
        print_message("taster's source is no git checkout: whether code has changed since is not known")
    if as_json:
        package = None if checkout is None else str(checkout.package)
        document = {"directory": str(folder), "checkout": package, "results": [entry.to_dict() for entry in found]}
        typer.echo(json.dumps(document))
        return
    console = result_console()
    console.print(_table(found, console.width))
    words = Counter(map(_stale, found))
    by_settings, by_files, unknown = words[_BY_SETTINGS], words[_BY_FILES], words[_UNKNOWN]
    console.print(
        f"{by_settings + by_files} of {len(found)} are stale: {by_settings} by their settings, which are others today, "
        f"{by_files} by files alone, in which a comment counts as well"
        + (f"; of {unknown} it is not known" if unknown else "")
    )
    console.print("settings, files: how many have changed since")
    if len(found) == 1:
        for line in _details(found[0]):
            console.print(line, soft_wrap=True)


def _table(found: list[KeptResult], width: int) -> Table:
    """Narrow enough for a small window: settings and files by number, consecutive seeds by the first and the last."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    rows = [
        [
            entry.name,
            _UNKNOWN if entry.recipe is None else "" if entry.recipe == entry.name else entry.recipe,
            entry.commit[:_COMMIT] if entry.commit else _UNKNOWN,
            _ranges(entry.seeds) or _UNKNOWN,
            _count(entry.settings),
            _count(entry.code),
            _stale(entry),
        ]
        for entry in found
    ]
    headings = ["result", "recipe", "made at", "seeds", "settings", "files", "stale"]
    kept = [i for i in range(len(headings)) if i != 1 or any(row[1] for row in rows)]
    sizes = [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]
    left = width - sum(sizes[i] + _GAP for i in kept if i >= 2) - _GAP * (len(kept) - 4)
    first = max(_LEAST, min(sizes[0], left - _LEAST * (len(kept) - 6)))
    rooms = [first, max(_LEAST, left - first)]
    for i in kept:
        table.add_column(headings[i], justify="right" if i in (4, 5) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(fold(row[i], rooms[i]) if i < 2 else row[i] for i in kept))
    return table


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds with three or more in a row as the first and the last: "0–4 7"."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return " ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs)


def _stale(entry: KeptResult) -> str:
    """By what a result is stale, in a word."""
    if entry.stale is None:
        return _UNKNOWN
    if not entry.stale:
        return "no"
    return _BY_SETTINGS if entry.settings or entry.recipe is None else _BY_FILES


def _count(changes: list[str] | None) -> str:
    """How many of them have changed."""
    return _UNKNOWN if changes is None else str(len(changes)) if changes else "same"


def _details(entry: KeptResult) -> list[str]:
    return [
        *entry.notes,
        *(f"setting  {line}" for line in entry.settings or []),
        *(f"file     {line}" for line in entry.code or []),
    ]
