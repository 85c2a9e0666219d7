"""Scores of clean and of poisoned samples, summarized over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taster.experiments import PublishedResult
from taster.report.summary import MeanStd

HEADINGS = ["score", "attack", "defence", "samples", "clean", "poisoned", "AUC"]
LEGEND = (
    "clean, poisoned: mean of the score over the samples that were changed, before and after; AUC: area under the ROC "
    "curve between the two, in %: 50 is no better than chance; mean ± standard deviation over seeds."
)
SAMPLES = {"accumulate": "stream", "trigger": "trigger"}
"""Names of the samples of each phase."""


@dataclass(frozen=True)
class ScoreRow:
    """One score of one attack's samples of one phase, over all seeds; `poisoned` and `auc` are None if none changed."""

    score: str
    attack: str
    defence: str
    phase: str
    clean: MeanStd | None
    poisoned: MeanStd | None
    auc: MeanStd | None
    published: str = ""

    def cells(self, *, published: bool = False) -> list[str]:
        """The cells of the table, in the order of `HEADINGS`, and the paper's figures if `published`."""
        return [
            self.score,
            self.attack,
            self.defence,
            SAMPLES[self.phase],
            _text(self.clean),
            _text(self.poisoned),
            _text(self.auc, 1),
            *([self.published or "–"] if published else []),
        ]


def score_table(rows: Sequence[Mapping[str, Any]], published: Sequence[PublishedResult] = ()) -> list[ScoreRow]:
    """One line for each score, attack, defence and phase.

    Args:
        rows: of results.json.
        published: the recipe's `[[published]]` entries.
    """
    reported = {(p.score, p.attack): _published_text(p) for p in published if p.score is not None}
    first = rows[0]["defence"] if rows else ""  # a paper's figures are of the undefended model, which comes first
    groups: dict[tuple[str, str, str, str], list[dict[str, float]]] = {}
    labels = list(dict.fromkeys(label for row in rows for label in row.get("scores", {})))
    for label in labels:
        for row in rows:
            for phase, entry in row.get("scores", {}).get(label, {}).items():
                groups.setdefault((label, row["attack"], row["defence"], phase), []).append(entry)
    return [
        ScoreRow(
            *key,
            clean=_spread(entries, "clean"),
            poisoned=_spread(entries, "poisoned"),
            auc=_spread(entries, "auc"),
            published=reported.get(key[:2], "") if key[2] == first else "",
        )
        for key, entries in groups.items()
    ]


def _spread(entries: list[dict[str, float]], name: str) -> MeanStd | None:
    values = [entry[name] for entry in entries if name in entry]
    return MeanStd.of(values) if values else None


def _text(spread: MeanStd | None, digits: int | None = None) -> str:
    if spread is None:
        return "–"
    return spread.text(digits=digits if digits is not None else 3 if abs(spread.mean) < 10 else 1)


def _published_text(published: PublishedResult) -> str:
    parts = [] if published.clean is None else [f"clean {published.clean:g}"]
    parts += [] if published.poisoned is None else [f"poisoned {published.poisoned:g}"]
    parts += [] if published.auc is None else [f"AUC {published.auc:g}"]
    return ", ".join(parts)
