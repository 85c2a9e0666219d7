"""Attacks against defences as one table: the worst step of a run, and the accuracy at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taster.report.summary import MeanStd

LEGEND = (
    "Worst fall of test accuracy between two measurements, in points, and the test accuracy at the end, in %; mean ± "
    "standard deviation over seeds."
)


def attack_defence_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings (the defences) and a row for each attack; both empty if no row has a worst step.

    Args:
        rows: of results.json.
    """
    rows = [row for row in rows if row.get("worst_step") is not None]
    defences = list(dict.fromkeys(row["defence"] for row in rows))
    lines = []
    for attack in dict.fromkeys(row["attack"] for row in rows):
        cells = [attack]
        for defence in defences:
            own = [row for row in rows if (row["attack"], row["defence"]) == (attack, defence)]
            if own:
                worst, left = (MeanStd.of([row[key] for row in own]) for key in ("worst_step", "acc_after"))
                cells.append(f"{worst.text(sign=True)} / {left.text()}")
            else:
                cells.append("–")
        lines.append(cells)
    return (["attack", *defences], lines) if lines else ([], [])
