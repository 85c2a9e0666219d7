"""The bounds that gates give on the harm that can pass them, over the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BoundRange:
    """The least and the greatest bound that one defence's gate gave over its rows."""

    defence: str
    least: Mapping[str, Any]
    greatest: Mapping[str, Any]

    def cells(self) -> list[str]:
        """Defence, samples of the probe, and each bound with its checks and refusals."""
        ends = [
            text
            for bound in (self.least, self.greatest)
            for text in (f"{bound['max_accuracy_drop']:.1f}", f"{bound['checks']}, {bound['refusals']}")
        ]
        return [self.defence, str(self.least["samples"]), *ends]

    def legend(self) -> str:
        """What the bounds mean."""
        return (
            "Points that accuracy can at most have fallen below the anchor's at any check, with "
            f"{100 * self.least['confidence']:g} % confidence, against an attacker who does not hold the probe, where "
            f"the two models differ on no more than {self.least['churn']:g} % of samples beyond the fall: for the run "
            "with the least and the one with the greatest bound. An attacker who sees which updates are refused can "
            "steer by it, so the bound grows with the refusals."
        )


def detection_bounds(rows: Sequence[Mapping[str, Any]]) -> list[BoundRange]:
    """For each defence whose gate bounds the harm: the range of its bounds.

    Args:
        rows: of results.json.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("detection_bound"):
            found.setdefault(row["defence"], []).append(row["detection_bound"])
    return [
        BoundRange(
            defence,
            min(given, key=lambda bound: bound["max_accuracy_drop"]),
            max(given, key=lambda bound: bound["max_accuracy_drop"]),
        )
        for defence, given in found.items()
    ]
