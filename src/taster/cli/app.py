"""The Typer application, and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import taster


class Command(TyperCommand):
    """A command whose help is plain text."""

    def get_help(self, ctx: Any) -> str:
        """Without the backslashes that Typer puts before brackets for Rich, where Rich prints nothing."""
        return super().get_help(ctx).replace("\\[", "[")


class CommandGroup(TyperGroup):
    """The commands; a name that is none of them is answered with those that are like it, once."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of that name.

        Raises:
            click.UsageError: if there is none. Typer puts what is like it into the message, and Click from 8.4 on
                adds its own `possibilities`.
        """
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            if "Did you mean" in str(getattr(error, "message", "")) and hasattr(error, "possibilities"):
                error.possibilities = None
            raise


app = typer.Typer(
    name="taster",
    cls=CommandGroup,
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
