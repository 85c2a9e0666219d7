"""Progress reporting."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a run."""

    def begin(self, stage: str, steps: int) -> None:
        """A stage of so many steps begins."""

    def step(self, stage: str, steps: int, title: str) -> None:
        """So many steps more are done, the last of them in the task of this title."""


class NoProgress:
    """Ignores progress."""

    def begin(self, stage: str, steps: int) -> None:
        """Nothing."""

    def step(self, stage: str, steps: int, title: str) -> None:
        """Nothing."""
