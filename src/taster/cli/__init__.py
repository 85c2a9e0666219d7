"""The command line."""

from __future__ import annotations

import os
import sys

from taster.cli.app import Command, app
from taster.cli.audit import audit
from taster.cli.compare import compare
from taster.cli.console import escape_unprintable, print_message
from taster.cli.protect import protect
from taster.cli.quarantine import quarantine
from taster.cli.report import report
from taster.cli.results import results
from taster.cli.run import run
from taster.cli.show import list_all, show
from taster.errors import TasterError

__all__ = ["app", "main"]

app.command(cls=Command)(run)
app.command(cls=Command)(audit)
app.command(name="list", cls=Command)(list_all)
app.command(cls=Command)(show)
app.command(cls=Command)(report)
app.command(cls=Command)(compare)
app.command(cls=Command)(results)
app.command(cls=Command)(protect)
app.command(cls=Command)(quarantine)


def main() -> None:
    """Entry point of the command. A user's mistake, or a file or disk that fails, is one message and exit code 2."""
    escape_unprintable()
    try:
        try:
            app(standalone_mode=True)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (TasterError, OSError) as error:
        print_message(f"error: {error}", style="red")
        sys.exit(2)
