"""Rows of an offline recipe's results, summarized over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taster.experiments import PublishedResult
from taster.experiments.results import FailedCell
from taster.report.summary import MeanStd
from taster.report.verdict import targets_hit
from taster.stats.proportion import Proportion


@dataclass(frozen=True)
class OfflineLine:
    """One attack on the training set and one defence, over all seeds; the figures are those of `legend`."""

    attack: str
    defence: str
    seeds: int
    accuracy: MeanStd
    change: MeanStd | None
    lowest_recall: MeanStd
    poisoned: MeanStd
    removed: MeanStd
    precision: MeanStd | None
    found: MeanStd | None
    refused: MeanStd
    asr: MeanStd | None
    target_success: MeanStd | None
    hits: Proportion | None
    certified: dict[int, float]
    seconds_attack: MeanStd
    seconds_a_poison: MeanStd | None
    seconds_training: MeanStd
    published: PublishedResult | None

    @property
    def certified_radius(self) -> int | None:
        """The largest number of poisoned samples at which half of the accuracy that can be certified is left; None
        without a certificate."""
        if not self.certified:
            return None
        half = [budget for budget, left in self.certified.items() if left >= self.certified[0] / 2 and left > 0]
        return max(half, default=0)


_COLUMNS = {
    "attack": "",
    "defence": "",
    "accuracy": "on test samples after the training, in %",
    "change": "points over training on the clean set without a defence",
    "lowest class": "recall of the class that is recognised least, in %",
    "ASR": "attack success rate, the share of test samples of other classes that the model puts into the target class "
    "when they bear the backdoor trigger, in %",
    "targets hit": "the share of targets, of all seeds together, in the class that the attacker wants, in %, with its "
    "binomial (Clopper-Pearson) interval of 95 % confidence, as if targets were independent",
    "poisoned": "samples changed or inserted",
    "left out": "samples that the defence did not train on",
    "precision": "the share of these that was poisoned, in %",
    "found": "the share of the poisoned samples that was left out, in %",
    "refused": "steps that a guard undid",
    "certified": "the number of poisoned samples at which half of the accuracy is still proved",
    "s/poison": "seconds of crafting by poisoned sample",
    "attack, s": "seconds of crafting",
    "training, s": "seconds of training behind the defence",
    "published": "the paper's figures, in its own setting",
}
"""Columns and what they say."""


_WIDE = {"lowest class", "poisoned", "precision", "refused", "attack, s", "training, s"}
"""Columns of the page alone."""


def offline_table(
    lines: Sequence[OfflineLine], failed: Sequence[FailedCell] = (), *, narrow: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table; columns that no line has anything for are left out.

    Args:
        lines: of all attacks and defences.
        failed: cells that came to no result. Where no seed did, the row says so; else how many did.
        narrow: show the standard deviation of the accuracy alone, and no more columns than a console has room for.
    """
    rows = [_cells(line, narrow=narrow) for line in lines]
    for key, count in Counter((cell["attack"], cell["defence"]) for cell in failed).items():
        own = next((row for row in rows if (row[0], row[1]) == key), None)
        if own is None:
            after = [i for i, row in enumerate(rows) if row[0] == key[0]]
            empty = [""] * (len(_COLUMNS) - 3)
            rows.insert(after[-1] + 1 if after else len(rows), [*key, "failed", *empty])
        else:
            own[2] += f", {count} failed"
    shown = [any(row[i] for row in rows) for i in range(len(_COLUMNS))]
    headings = list(_COLUMNS)
    kept = [i for i, there in enumerate(shown) if there and not (narrow and headings[i] in _WIDE)]
    return [headings[i] for i in kept], [[row[i] or "–" for i in kept] for row in rows]


def _cells(line: OfflineLine, *, narrow: bool) -> list[str]:
    """In the order of `_COLUMNS`; empty where there is nothing to say."""

    def text(value: MeanStd | None, *, sign: bool = False, digits: int = 1) -> str:
        if value is None:
            return ""
        return MeanStd(value.mean, None if narrow else value.std).text(sign=sign, digits=digits)

    def seconds(value: MeanStd | None, digits: int) -> str:
        # Nothing is priced that takes no time.
        return f"{value.mean:.{digits}f}" if value is not None and round(value.mean, digits) > 0 else ""

    def where_any(value: MeanStd) -> str:
        return f"{value.mean:.0f}" if value.mean else ""

    return [
        line.attack,
        line.defence,
        line.accuracy.text(),
        text(line.change, sign=True),
        text(line.lowest_recall),
        text(line.asr),
        text(line.target_success) if line.hits is None else line.hits.text(),
        where_any(line.poisoned),
        where_any(line.removed),
        text(line.precision),
        text(line.found),
        where_any(line.refused),
        "" if line.certified_radius is None else str(line.certified_radius),
        seconds(line.seconds_a_poison, 2),
        seconds(line.seconds_attack, 1),
        text(MeanStd(line.seconds_training.mean, None)),
        _published(line.published),
    ]


def _published(published: PublishedResult | None) -> str:
    if published is None:
        return ""
    parts = [] if published.after is None else [f"{published.after:g}"]
    parts += [] if published.asr is None else [f"ASR {published.asr:g}"]
    parts += [] if published.target_success is None else [f"targets {published.target_success:g}"]
    return ", ".join(parts)


def offline_legend(headings: Sequence[str]) -> str:
    """Explains columns.

    Args:
        headings: of the table.
    """
    explained = [f"{heading}: {_COLUMNS[heading]}" for heading in headings if _COLUMNS[heading]]
    return "; ".join([*explained, "mean ± standard deviation over seeds."])


def summarize_offline(
    rows: Sequence[Mapping[str, Any]],
    published: Sequence[PublishedResult] = (),
    honest: str | None = None,
    undefended: str | None = None,
) -> list[OfflineLine]:
    """One line for each attack and defence, in the order of the rows.

    Args:
        rows: of results.json.
        published: the recipe's `[[published]]` entries.
        honest: the label of the attack that attacks nothing.
        undefended: the label of the defence that defends nothing.
    """
    reported = {(p.attack, p.defence): p for p in published if p.defence is not None}
    clean = {row["seed"]: row["accuracy"] for row in rows if (row["attack"], row["defence"]) == (honest, undefended)}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["defence"]), []).append(row)
    return [_line(*key, group, clean, reported.get(key)) for key, group in groups.items()]


def _line(
    attack: str,
    defence: str,
    rows: Sequence[Mapping[str, Any]],
    clean: Mapping[int, float],
    published: PublishedResult | None,
) -> OfflineLine:
    def over(key: str) -> MeanStd:
        return MeanStd.of([row[key] for row in rows])

    def where_known(key: str) -> MeanStd | None:
        values = [row[key] for row in rows if row.get(key) is not None]
        return MeanStd.of(values) if values else None

    changes = [row["accuracy"] - clean[row["seed"]] for row in rows if row["seed"] in clean]
    return OfflineLine(
        attack=attack,
        defence=defence,
        seeds=len(rows),
        accuracy=over("accuracy"),
        change=MeanStd.of(changes) if len(changes) == len(rows) else None,
        lowest_recall=MeanStd.of([min(value for value in row["recall"] if value is not None) for row in rows]),
        poisoned=over("poisoned"),
        removed=MeanStd.of([row["samples"] - row["kept"] for row in rows]),
        precision=where_known("precision"),
        found=where_known("found"),
        refused=over("refused"),
        asr=where_known("asr"),
        target_success=where_known("target_success"),
        hits=targets_hit(rows),
        certified=_certified(rows),
        seconds_attack=over("seconds_attack"),
        seconds_a_poison=_seconds_a_poison(rows),
        seconds_training=over("seconds_training"),
        published=published,
    )


def _seconds_a_poison(rows: Sequence[Mapping[str, Any]]) -> MeanStd | None:
    """Of attacks with targets alone, which are compared by it."""
    values = [row["seconds_attack"] / row["poisoned"] for row in rows if row.get("targets") and row["poisoned"]]
    return MeanStd.of(values) if values else None


def _certified(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """By number of poisoned samples the mean of what is certified; a seed's value is that of its next larger number,
    which is never too much."""
    seeds = [{int(budget): left for budget, left in row["certified"].items()} for row in rows if row.get("certified")]
    budgets = sorted({budget for seed in seeds for budget in seed})

    def left(seed: Mapping[int, float], budget: int) -> float:
        return max((value for own, value in seed.items() if own >= budget), default=0.0)

    return {budget: sum(left(seed, budget) for seed in seeds) / len(seeds) for budget in budgets}
