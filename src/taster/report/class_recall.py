"""Which classes suffer: the recall of each, by the names that the user gave them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taster.report.blocks import Section, Table, Text
from taster.report.names import class_name

if TYPE_CHECKING:
    from taster.report.data import ReportData
    from taster.report.figure_files import FigureFiles

_SHOWN = 20
"""Classes of the table, those that suffer most."""


def recall_by_class(data: ReportData, figures: FigureFiles) -> Section | None:
    """Recall without an attack and, behind each defence, under the attack that is worst for the class; None where
    nobody attacks, or nothing is known without an attack."""
    recalls = _mean_recalls(data.rows)
    clean = recalls.get((data.honest or "", data.undefended or data.defences[0]))
    attacks = [label for label in data.attacks if label != data.honest]
    if clean is None or not any(attack in attacks for attack, _ in recalls):
        return None
    defences = [label for label in data.defences if any((attack, label) in recalls for attack in attacks)]
    found: list[tuple[float, list[str]]] = []
    for place, untouched in enumerate(clean):
        if untouched is None:
            continue
        worst = [_worst(recalls, attacks, defence, place) for defence in defences]
        cells = [class_name(data.recipe, place), f"{untouched:.1f}", *(f"{value:.1f} ({who})" for value, who in worst)]
        found.append((untouched - min(value for value, _ in worst), cells))
    shown = sorted(found, key=lambda one: -one[0])[:_SHOWN]
    rows = [cells for _, cells in (found if len(found) <= _SHOWN else shown)]
    table = Table("Recall of each class", ["class", "no attack", *(f"behind {label}" for label in defences)], rows)
    note = (
        "Test samples of the class that are recognised, in %, mean over seeds, under the attack that is worst for it."
    )
    if len(found) > _SHOWN:
        note += f" The {_SHOWN} of {len(found)} classes that lose most."
    return Section("Which classes suffer", [table, Text(note, "soft")])


def _worst(
    recalls: Mapping[tuple[str, str], Sequence[float | None]], attacks: Sequence[str], defence: str, place: int
) -> tuple[float, str]:
    """The lowest recall of a class, and the attack that did it."""
    known = [(recalls[attack, defence][place], attack) for attack in attacks if (attack, defence) in recalls]
    return min(((value, attack) for value, attack in known if value is not None), key=lambda pair: pair[0])


def _mean_recalls(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[float | None]]:
    """By attack and defence the mean over seeds of each class's recall; None for a class without test samples."""
    groups: dict[tuple[str, str], list[Sequence[float | None]]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["defence"]), []).append(row["recall"])
    found = {}
    for key, seeds in groups.items():
        known = [[value for value in values if value is not None] for values in zip(*seeds, strict=True)]
        found[key] = [statistics.fmean(values) if values else None for values in known]
    return found
