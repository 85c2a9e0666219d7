"""`taster quarantine`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from taster.cli.app import AsJson, to_path
from taster.cli.console import print_message, result_console

if TYPE_CHECKING:
    from taster.core.quarantine import Quarantine

_COLUMNS = (("id", "left"), ("step", "right"), ("samples", "right"), ("stage", "left"), ("reason", "left"))


def quarantine(
    directory: Annotated[
        Path, typer.Argument(parser=to_path, metavar="PATH", help="A folder that taster.Quarantine keeps.")
    ],
    release: Annotated[
        list[str] | None,
        typer.Option(help="Release a batch, by its id: Quarantine.released() returns it; repeat for more."),
    ] = None,
    discard: Annotated[list[str] | None, typer.Option(help="Delete a batch, by its id; repeat for more.")] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(parser=to_path, metavar="PATH", help="Write a PNG with pictures of what is in quarantine."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the batches that a guard refused, look at them, release or delete them."""
    from taster.core.quarantine import Quarantine
    from taster.errors import QuarantineError

    if not directory.is_dir():
        raise QuarantineError(f"{directory}: no such folder, wanted one that taster.Quarantine keeps")
    found = Quarantine(directory)
    found.release(release or [])
    found.discard(discard or [])
    entries = found.entries()
    if sheet is not None:
        _write_sheet(sheet, found, entries)
    if as_json:
        typer.echo(json.dumps(entries))
        return
    table = Table(title=f"{directory}: {len(entries)} in quarantine", title_justify="left", box=box.SIMPLE_HEAD)
    for heading, justify in _COLUMNS:
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for entry in entries:
        table.add_row(*(str(entry[heading]) for heading, _ in _COLUMNS))
    result_console().print(table)
    if sheet is not None:
        print_message(f"The pictures: {sheet}")


def _write_sheet(path: Path, found: Quarantine, entries: list[dict[str, Any]]) -> None:
    from taster.core.batch import check_tensors
    from taster.errors import QuarantineError
    from taster.report.pictures import contact_sheet

    titles = [f"{entry['id']}  step {entry['step']}  {entry['stage']}" for entry in entries]
    batches = [check_tensors(found.batch(entry["id"]), "pictures") for entry in entries]
    try:
        path.write_bytes(contact_sheet([(t, batch.x, batch.y) for t, batch in zip(titles, batches, strict=True)]))
    except OSError as error:
        raise QuarantineError(f"{path}: cannot be written: {error.strerror or error}") from error
