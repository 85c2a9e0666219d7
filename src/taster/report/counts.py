"""What is counted over the cells of a run for its page."""

from __future__ import annotations

from collections import Counter
from typing import Any


def detection_bounds(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each defence whose gate states a detection bound: the least and the greatest over its cells."""
    found: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        if cell["row"].get("detection_bound"):
            found.setdefault(cell["row"]["defence"], []).append(cell["row"]["detection_bound"])
    return [
        {
            "defence": defence,
            "samples": given[0]["samples"],
            "confidence": given[0]["confidence"],
            "churn": given[0]["churn"],
            "least": min(given, key=lambda p: p["max_accuracy_drop"]),
            "most": max(given, key=lambda p: p["max_accuracy_drop"]),
        }
        for defence, given in found.items()
    ]


def refusals(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each guard refused of each attack, by phase, with the reason it gave for the first."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    reasons: dict[tuple[str, str, str, str], str] = {}
    fed: Counter[tuple[str, str, str]] = Counter()
    for cell in cells:
        for step in cell["steps"]:
            where = (step["defence"], step["attack"], step["phase"])
            fed[where] += 1
            if step["verdict"] != "COMMIT":
                counts[(*where, step["stage"])] += 1
                reasons.setdefault((*where, step["stage"]), step["reason"])
    return [
        {
            "defence": defence,
            "attack": attack,
            "phase": phase,
            "stage": stage,
            "count": count,
            "fed": fed[(defence, attack, phase)],
            "reason": reasons[(defence, attack, phase, stage)],
        }
        for (defence, attack, phase, stage), count in counts.items()
    ]


def derivatives_by_method(cells: list[dict[str, Any]]) -> dict[str, list[str]]:
    """How each attack's derivatives were computed, with what fell back to another way; the attacks of each."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for step in cell["steps"]:
            if step["derivatives"] is not None and step["attack"] not in found.setdefault(step["derivatives"], []):
                found[step["derivatives"]].append(step["attack"])
    return found
