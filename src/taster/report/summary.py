"""Rows of results brought together over seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; the deviation is None for a single one."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def text(self, *, sign: bool = False, digits: int = 1) -> str:
        """As "mean ± sd"."""
        # Adding zero turns a rounded minus zero into zero.
        mean = round(self.mean, digits) + 0.0
        text = f"{mean:{'+' if sign and mean else ''}.{digits}f}".replace("-", "−")
        return text if self.deviation is None else f"{text} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Reported:
    """What a paper reports, in its own setting; None is what it does not."""

    before: float | None = None
    after: float | None = None
    drop: float | None = None
    spread: float | None = None
    steps: float | None = None
    cost: float | None = None
    screened: float | None = None
    seconds: float | None = None
    loss: float | None = None

    @classmethod
    def of(cls, published: dict[str, Any]) -> Reported:
        """Of an entry of a recipe's `[[published]]`."""
        return cls(**{field.name: published.get(field.name) for field in fields(cls)})

    def text(self, *, narrow: bool = False) -> str:
        """The drop; unless narrow, with whatever else there is."""
        drop = "" if self.drop is None else Spread(self.drop, self.spread).text(sign=True)
        if narrow and drop:
            return drop
        parts = [drop] if drop else []
        sides = " → ".join(f"{side:.1f}" for side in (self.before, self.after) if side is not None)
        if sides:
            parts = [f"{drop} ({sides})" if drop else sides]
        parts += [] if self.steps is None else [f"{self.steps:g} steps"]
        parts += [] if self.screened is None else [f"{self.screened:g} % screened"]
        parts += [] if self.cost is None else [f"cost {self.cost:.1f}"]
        parts += [] if self.seconds is None else [f"{self.seconds:g} s"]
        parts += [] if self.loss is None else [f"loss {self.loss:g}"]
        return ", ".join(parts) or "–"


@dataclass(frozen=True)
class Line:
    """One attack against one defence, over all seeds."""

    attack: str
    defence: str
    seeds: int
    start: Spread
    before: Spread
    after: Spread
    drop: Spread
    steps: Spread
    worst_step: Spread | None
    stopped_by: str
    rejected: Spread
    screened: Spread | None
    cost: Spread | None
    published: Reported | None = None

    def cells(self, *, narrow: bool = False, published: bool = False) -> list[str]:
        """The texts of the table, in the order of `headings`.

        Args:
            narrow: gives the deviation of the drop alone.
            published: with the paper's figures at the end.
        """
        before, after, steps, rejected = (
            Spread(spread.mean, None if narrow else spread.deviation)
            for spread in (self.before, self.after, self.steps, self.rejected)
        )
        return [
            self.attack,
            self.defence,
            self.drop.text(sign=True),
            before.text(),
            after.text(),
            steps.text(),
            rejected.text(),
            "–" if self.worst_step is None else self.worst_step.text(sign=True).split(" ")[0],
            "–" if self.screened is None else f"{self.screened.mean:.0f}",
            "–" if self.cost is None else f"{self.cost.mean:.2f}",
            *([("–" if self.published is None else self.published.text(narrow=narrow))] if published else []),
        ]


def headings(*, published: bool = False) -> list[str]:
    """Of the table, with or without a paper's figures beside."""
    own = ["attack", "defence", "drop", "before", "after", "steps", "refused", "worst step", "screened", "cost"]
    return [*own, "published"] if published else own


def tabulated(
    lines: Sequence[Line], *, narrow: bool = False, published: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table; without the columns of what was screened where nothing was, and of the worst step
    where it is not known, or the table is to be narrow."""
    heads, rows = headings(published=published), [line.cells(narrow=narrow, published=published) for line in lines]
    left_out = set()
    if not any(line.screened is not None and line.screened.mean > 0 for line in lines):
        left_out.add(heads.index("screened"))
    if narrow or all(line.worst_step is None for line in lines):
        left_out.add(heads.index("worst step"))

    def kept(row: list[str]) -> list[str]:
        return [text for i, text in enumerate(row) if i not in left_out]

    return kept(heads), [kept(row) for row in rows]


def legend(*, published: bool = False) -> str:
    """What the columns mean."""
    paper = "published: the paper's figures, in its own setting; " if published else ""
    return (
        "drop: what one trigger step did to test accuracy, in points; before, after: the accuracy on both sides of it, "
        "in %; steps: accumulative steps; refused: updates the guard undid; worst step: the greatest fall between two "
        "measurements; screened: samples of the accumulative steps that it dropped or corrected, in %; cost: seconds "
        "of a defended step over a "
        f"plain one; {paper}mean ± standard deviation over seeds."
    )


def summarise(rows: Sequence[dict[str, Any]], published: Sequence[dict[str, Any]] = ()) -> list[Line]:
    """One line for each attack and defence, in the order of the rows.

    Args:
        rows: of results.json.
        published: what a paper reports for some of them, as in a recipe.
    """
    reported = {(p["attack"], p["defence"]): Reported.of(p) for p in published if p.get("defence") is not None}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["defence"]), []).append(row)
    return [_line(attack, defence, group, reported) for (attack, defence), group in groups.items()]


def _line(attack: str, defence: str, rows: list[dict[str, Any]], reported: dict[tuple[str, str], Reported]) -> Line:
    def over(key: str) -> Spread:
        return Spread.of([row[key] for row in rows])

    def where_known(key: str) -> Spread | None:
        values = [row[key] for row in rows if row.get(key) is not None]
        return Spread.of(values) if values else None

    stopped = Counter(row["stopped_by"] for row in rows)
    return Line(
        attack=attack,
        defence=defence,
        seeds=len(rows),
        start=over("acc_start"),
        before=over("acc_before"),
        after=over("acc_after"),
        drop=over("drop"),
        steps=over("steps"),
        stopped_by=", ".join(f"{reason} {count}" for reason, count in stopped.most_common()),
        rejected=over("rejected"),
        worst_step=where_known("worst_step"),
        screened=where_known("screened"),
        cost=where_known("cost"),
        published=reported.get((attack, defence)),
    )


def worst(lines: Sequence[Line]) -> Line:
    """The line with the greatest mean drop."""
    return min(lines, key=lambda line: line.drop.mean)
