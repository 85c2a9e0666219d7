"""Which machines a run asks for, told without importing Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster a run asks for.

    Attributes:
        address: HOST:PORT of its head, or "auto" for the one that runs on this machine; None is that one or, if there
            is none, one started for the run.
        at_once: how many tasks may be under way; None is as many as there is room for.
    """

    address: str | None = None
    at_once: int | None = None
