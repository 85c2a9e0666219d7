"""Rows of results, summarized over seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taster.experiments import PublishedResult


@dataclass(frozen=True)
class MeanStd:
    """Mean and standard deviation over seeds; `std` is None for a single value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanStd:
        """Mean and standard deviation of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def text(self, *, sign: bool = False, digits: int = 1) -> str:
        """Formats as "mean ± std", with a sign if `sign`."""
        # Adding zero turns a rounded −0.0 into 0.0.
        mean = round(self.mean, digits) + 0.0
        text = f"{mean:{'+' if sign and mean else ''}.{digits}f}".replace("-", "−")
        return text if self.std is None else f"{text} ± {self.std:.{digits}f}"


def published_text(published: PublishedResult, *, narrow: bool = False) -> str:
    """A paper's accuracy change; unless narrow, with everything else it reports."""
    change = "" if published.drop is None else MeanStd(published.drop, published.std).text(sign=True)
    if narrow and change:
        return change
    parts = [change] if change else []
    sides = " → ".join(f"{side:.1f}" for side in (published.before, published.after) if side is not None)
    if sides:
        parts = [f"{change} ({sides})" if change else sides]
    parts += [] if published.steps is None else [f"{published.steps:g} steps"]
    parts += [] if published.screened is None else [f"{published.screened:g} % screened"]
    parts += [] if published.cost is None else [f"cost {published.cost:.1f}"]
    parts += [] if published.seconds is None else [f"{published.seconds:g} s"]
    parts += [] if published.loss is None else [f"loss {published.loss:g}"]
    parts += [] if published.asr is None else [f"ASR {published.asr:g}"]
    return ", ".join(parts) or "–"


@dataclass(frozen=True)
class SummaryRow:
    """One attack against one defence, over all seeds."""

    attack: str
    defence: str
    seeds: int
    start: MeanStd
    before: MeanStd
    after: MeanStd
    accuracy_change: MeanStd
    steps: MeanStd
    worst_step: MeanStd | None
    stopped_by: str
    rejected: MeanStd
    screened: MeanStd | None
    cost: MeanStd | None
    asr_start: MeanStd | None = None
    asr: MeanStd | None = None
    certified: MeanStd | None = None
    published: PublishedResult | None = None

    def cells(self, *, narrow: bool = False, published: bool = False) -> list[str]:
        """The cells of the table, in the order of `headings`.

        Args:
            narrow: show the standard deviation of the drop only.
            published: add the paper's figures.
        """
        before, after, steps, rejected = (
            MeanStd(spread.mean, None if narrow else spread.std)
            for spread in (self.before, self.after, self.steps, self.rejected)
        )
        return [
            self.attack,
            self.defence,
            self.accuracy_change.text(sign=True),
            before.text(),
            after.text(),
            steps.text(),
            rejected.text(),
            "–" if self.worst_step is None else self.worst_step.text(sign=True).split(" ")[0],
            "–" if self.screened is None else f"{self.screened.mean:.0f}",
            "–" if self.cost is None else f"{self.cost.mean:.2f}",
            self._success(narrow=narrow),
            "–"
            if self.certified is None
            else MeanStd(self.certified.mean, None if narrow else self.certified.std).text(),
            *(
                [("–" if self.published is None else published_text(self.published, narrow=narrow))]
                if published
                else []
            ),
        ]

    def _success(self, *, narrow: bool) -> str:
        """The attack success rate before and after the attack."""
        if self.asr_start is None or self.asr is None:
            return "–"
        after = MeanStd(self.asr.mean, None if narrow else self.asr.std)
        return f"{self.asr_start.mean:.1f} → {after.text()}"


def headings(*, published: bool = False) -> list[str]:
    """The headings of the table."""
    own = ["attack", "defence", "drop", "before", "after", "steps", "refused", "worst step", "screened", "cost", "ASR"]
    own.append("certified")
    return [*own, "published"] if published else own


def result_table(
    lines: Sequence[SummaryRow], *, narrow: bool = False, published: bool = False, undefended: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table. The column "screened" is left out if nothing was screened, "worst step" if it is
    unknown or the table is `narrow`, "ASR" if nobody plants a backdoor, "cost" if no defence has one.

    Args:
        lines: of all attacks and defences.
        narrow: for a console.
        published: add the paper's figures.
        undefended: the label of the defence that defends nothing, and so costs nothing.
    """
    priced = [line if line.defence != undefended else replace(line, cost=None) for line in lines]
    heads, rows = headings(published=published), [line.cells(narrow=narrow, published=published) for line in priced]
    left_out = set()
    if all(line.cost is None for line in priced):
        left_out.add(heads.index("cost"))
    if not any(line.screened is not None and line.screened.mean > 0 for line in lines):
        left_out.add(heads.index("screened"))
    if narrow or all(line.worst_step is None for line in lines):
        left_out.add(heads.index("worst step"))
    if all(line.asr is None for line in lines):
        left_out.add(heads.index("ASR"))
    if all(line.certified is None for line in lines):
        left_out.add(heads.index("certified"))

    def kept(row: list[str]) -> list[str]:
        return [text for i, text in enumerate(row) if i not in left_out]

    return kept(heads), [kept(row) for row in rows]


_EXPLAINED = {
    "drop": "drop: change of test accuracy by the one trigger step, in points",
    "before": "before, after: the accuracy on both sides of it, in %",
    "steps": "steps: accumulative steps",
    "refused": "refused: updates that the guard undid",
    "worst step": "worst step: the largest fall between two measurements",
    "screened": "screened: samples of the accumulative steps that it dropped or corrected, in %",
    "cost": "cost: seconds of a defended step over a plain one",
    "ASR": "ASR: attack success rate, the share of test samples of other classes that the model puts into the target "
    "class when they bear the backdoor trigger, in %, before the attack → at its end, – for attacks without such a "
    "trigger",
    "certified": "certified: accuracy in % that is proved to be left by poison of any kind that lasts as many steps as "
    "the attack",
    "published": "published: the paper's figures, in its own setting",
}


def legend(columns: Sequence[str]) -> str:
    """Explains the columns of a table.

    Args:
        columns: its headings.
    """
    return "; ".join(
        [*(text for name, text in _EXPLAINED.items() if name in columns), "mean ± standard deviation over seeds."]
    )


def summarize(rows: Sequence[Mapping[str, Any]], published: Sequence[PublishedResult] = ()) -> list[SummaryRow]:
    """One line for each attack and defence, in the order of the rows.

    Args:
        rows: of results.json.
        published: the recipe's `[[published]]` entries.
    """
    reported = {(p.attack, p.defence): p for p in published if p.defence is not None}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["defence"]), []).append(row)
    return [_line(attack, defence, group, reported) for (attack, defence), group in groups.items()]


def _line(
    attack: str, defence: str, rows: list[Mapping[str, Any]], reported: dict[tuple[str, str], PublishedResult]
) -> SummaryRow:
    def over(key: str) -> MeanStd:
        return MeanStd.of([row[key] for row in rows])

    def where_known(key: str) -> MeanStd | None:
        values = [row[key] for row in rows if row.get(key) is not None]
        return MeanStd.of(values) if values else None

    stopped = Counter(row["stopped_by"] for row in rows)
    return SummaryRow(
        attack=attack,
        defence=defence,
        seeds=len(rows),
        start=over("acc_start"),
        before=over("acc_before"),
        after=over("acc_after"),
        accuracy_change=over("drop"),
        steps=over("steps"),
        stopped_by=", ".join(f"{reason} {count}" for reason, count in stopped.most_common()),
        rejected=over("rejected"),
        worst_step=where_known("worst_step"),
        screened=where_known("screened"),
        cost=where_known("cost"),
        asr_start=where_known("asr_start"),
        asr=where_known("asr"),
        certified=_certified(rows),
        published=reported.get((attack, defence)),
    )


def _certified(rows: Sequence[Mapping[str, Any]]) -> MeanStd | None:
    """The accuracy that is proved against poison that lasts as long as the attack did: its steps and the trigger's."""
    found = [row["certified"][str(row["steps"] + 1)] for row in rows if row.get("certified")]
    return MeanStd.of(found) if found else None
