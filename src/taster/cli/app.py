"""The Typer application, and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import taster

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


def to_path(text: str) -> Path:
    """The path that a word on the command line names."""
    if "\0" in text:
        raise typer.BadParameter("a path has no NUL in it")
    return Path(text)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(taster.__version__)
        raise typer.Exit
