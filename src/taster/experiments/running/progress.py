"""Who is told how a run goes on."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Is told how a run goes on."""

    def begin(self, stage: str, steps: int) -> None:
        """A stage of so many steps begins."""

    def step(self, stage: str, steps: int, title: str) -> None:
        """So many steps more are done, the last of them in the task of this title."""


class Silence:
    """A watcher that does not care."""

    def begin(self, stage: str, steps: int) -> None:
        """Nothing."""

    def step(self, stage: str, steps: int, title: str) -> None:
        """Nothing."""
