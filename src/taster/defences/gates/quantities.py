"""Which of the measured quantities a gate tests, by their names."""

from __future__ import annotations

from collections.abc import Mapping

from taster.stats.paired_sums import PairedSums

Sums = Mapping[str, PairedSums]
"""Drops by quantity."""


def quantities(measured: Mapping[str, object]) -> list[str]:
    """The names of what is tested."""
    return [name for name in measured if name != "loss"]


def independent(measured: Mapping[str, object]) -> bool:
    """Whether quantities have nothing to do with each other: a user's own. Those of a task come with a loss."""
    return "loss" not in measured


def watched(measured: Mapping[str, object]) -> list[str]:
    """The quantities by which a step is judged: each of independent ones, a task's last."""
    return quantities(measured) if independent(measured) else quantities(measured)[-1:]


def anchored(measured: Mapping[str, object]) -> list[str]:
    """The quantities by which the anchor is held: each of independent ones, a task's first."""
    return quantities(measured) if independent(measured) else quantities(measured)[:1]
