"""Time and memory of aggregation: the same float32 updates, each toolkit in turn."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from toolkits import of_taster
from toolkits.installed import version_of
from toolkits.rules import Rule, Updates
from toolkits.timing import Way, compare

SIZES = tuple((clients, size) for size in (10_000, 100_000, 1_000_000) for clients in (10, 30, 100))
"""Clients and numbers in an update."""

_BULYAN_UP_TO = 3_000_000
"""Numbers in the matrix up to which Bulyan runs: Flower computes all distances anew for each selected client."""


def all_rules() -> dict[str, dict[str, Rule]]:
    """The rules of each toolkit that is installed, by toolkit."""
    found = {"taster": of_taster.rules()}
    if version_of("byzfl"):
        from toolkits import of_byzfl

        found |= {"ByzFL (torch)": of_byzfl.rules("torch"), "ByzFL (numpy)": of_byzfl.rules("numpy")}
    if version_of("flwr"):
        from toolkits import of_flower

        found["Flower"] = of_flower.rules()
    return found


def num_byzantine(clients: int) -> int:
    """A fifth of the clients, or what Bulyan allows, which needs 4 f + 3."""
    return min(clients // 5, (clients - 3) // 4)


def measure(sizes: list[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
    """A row for each size, rule and toolkit."""
    toolkits = all_rules()
    rows = []
    for clients, size in sizes:
        generator = torch.Generator().manual_seed(0)
        values = torch.empty(clients, size)
        for row in values:
            row.normal_(generator=generator)
        updates = Updates(values, num_byzantine(clients))
        updates.clip_norm  # noqa: B018 (computed now, so that no rule's time has it)
        for name in toolkits["taster"]:
            if name == "Bulyan" and clients * size > _BULYAN_UP_TO:
                continue
            ways: dict[str, Way] = {
                toolkit: partial(rules[name].ready, updates) for toolkit, rules in toolkits.items() if name in rules
            }
            if len(ways) == 1:
                continue
            found = compare(ways, rounds)
            own = found["taster"]["seconds"]
            for toolkit, figures in found.items():
                figures.pop("result", None)
                if "seconds" in figures:
                    figures["over_taster"] = figures["seconds"] / own
                rows.append({"clients": clients, "numbers": size, "rule": name, "toolkit": toolkit, **figures})
                print(_line(rows[-1]), flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    start = f"| {row['clients']} | {row['numbers']:,} | {row['rule']} | {row['toolkit']} |"
    if "error" in row:
        return f"{start} {row['error']} | | |"
    memory = "?" if row["memory_MiB"] is None else f"{row['memory_MiB']:.1f}"
    return f"{start} {1000 * row['seconds']:.2f} | {row['over_taster']:.2f} | {memory} |"
