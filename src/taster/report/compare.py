"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taster.report.summary import SummaryRow, summarize


def compare_runs(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The drop of each attack against each defence in every run.

    Args:
        runs: name and content of results.json of each; differences are to the first.

    Returns:
        for each attack and defence of any run: an entry for each run (None if it lacks them), with mean, std,
        seeds, text, and the difference of the means.
    """
    tables: list[dict[tuple[str, str], SummaryRow]] = [
        {(line.attack, line.defence): line for line in summarize(results["rows"])} for _, results in runs
    ]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    lines = []
    for key in keys:
        base = tables[0].get(key)
        entries = []
        for (name, _), table in zip(runs, tables, strict=True):
            line = table.get(key)
            entries.append(
                None
                if line is None
                else {
                    "run": name,
                    "mean": line.accuracy_change.mean,
                    "std": line.accuracy_change.std,
                    "seeds": line.seeds,
                    "text": line.accuracy_change.text(sign=True),
                    "difference": None if base is None else line.accuracy_change.mean - base.accuracy_change.mean,
                }
            )
        lines.append({"attack": key[0], "defence": key[1], "runs": entries})
    return lines
