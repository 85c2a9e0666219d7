"""Consoles of the command: results go to standard output, everything for people to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def result_console() -> Console:
    """A console on standard output. Labels and paths are printed as they are, without markup."""
    return Console(markup=False, emoji=False, highlight=False)


def message_console() -> Console:
    """A console on standard error."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_message(text: str, *, style: str | None = None) -> None:
    """Prints one message, a path in it unbroken."""
    message_console().print(text, style=style, soft_wrap=True)


def print_nothing(text: str) -> None:
    """What a quiet command says."""


def escape_unprintable() -> None:
    """Has both streams print what their encoding does not have, or what is no text at all, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def progress_display(quiet: bool) -> Iterator[Progress]:
    """Shows bars on standard error."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=message_console(),
        disable=quiet,
    ) as progress:
        yield progress


class ProgressBars:
    """Shows a run's progress, a bar for each stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def begin(self, stage: str, steps: int) -> None:
        """Adds a bar."""
        self._bars[stage] = self._progress.add_task(stage, total=steps)

    def step(self, stage: str, steps: int, title: str) -> None:
        """Advances a bar."""
        self._progress.update(self._bars[stage], advance=steps, description=f"{stage} ({title})")
