"""`taster results`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from taster.cli.app import AsJson, to_path
from taster.cli.console import print_message, result_console

if TYPE_CHECKING:
    from taster.experiments.kept_results import KeptResult

_UNKNOWN = "?"


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
    console.print(_table(found))
    stale = sum(entry.stale is True for entry in found)
    unknown = sum(entry.stale is None for entry in found)
    console.print(f"{stale} of {len(found)} are stale" + (f", of {unknown} it is not known" if unknown else ""))
    if len(found) == 1:
        for line in _details(found[0]):
            console.print(line, soft_wrap=True)


def _table(found: list[KeptResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for heading in ("result", "recipe", "made at", "seeds", "settings", "code", "stale"):
        table.add_column(heading, overflow="fold")
    for entry in found:
        table.add_row(
            entry.name,
            _UNKNOWN if entry.recipe is None else "" if entry.recipe == entry.name else entry.recipe,
            entry.commit or _UNKNOWN,
            " ".join(map(str, entry.seeds)) or _UNKNOWN,
            _count(entry.settings, "setting"),
            _count(entry.code, "file"),
            {True: "yes", False: "no", None: _UNKNOWN}[entry.stale],
        )
    return table


def _count(changes: list[str] | None, word: str) -> str:
    if changes is None:
        return _UNKNOWN
    return f"{len(changes)} {word}{'s' if len(changes) > 1 else ''}" if changes else "same"


def _details(entry: KeptResult) -> list[str]:
    return [
        *entry.notes,
        *(f"setting  {line}" for line in entry.settings or []),
        *(f"file     {line}" for line in entry.code or []),
    ]
