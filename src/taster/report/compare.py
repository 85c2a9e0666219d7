"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taster.errors import RunDirectoryError
from taster.report.offline_summary import OfflineLine, summarize_offline
from taster.report.summary import MeanStd, summarize


def compared_quantity(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """What runs are compared by, in words.

    Raises:
        RunDirectoryError: if some are of an offline recipe and others are not.
    """
    offline = [name for name, results in runs if _is_offline(results)]
    streams = [name for name, results in runs if not _is_offline(results)]
    if offline and streams:
        raise RunDirectoryError(
            f"got {offline[0]}, a training on a data set, and {streams[0]}, which learned from a stream; wanted "
            "runs of one kind"
        )
    return "test accuracy after training, %" if offline else "drop at the trigger step, points"


def compare_runs(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The drop of each attack against each defence in every run, or the accuracy of offline recipes.

    Args:
        runs: name and content of results.json of each; differences are to the first.

    Returns:
        for each attack and defence of any run: an entry for each run (None if it lacks them), with mean, std,
        seeds, text (with the targets hit, where there are any), and the difference of the means.
    """
    tables = [_values(results) for _, results in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    lines = []
    for key in keys:
        base = tables[0].get(key)
        entries: list[dict[str, Any] | None] = []
        for (name, _), table in zip(runs, tables, strict=True):
            found = table.get(key)
            if found is None:
                entries.append(None)
                continue
            value, seeds, text = found
            entries.append(
                {
                    "run": name,
                    "mean": value.mean,
                    "std": value.std,
                    "seeds": seeds,
                    "text": text,
                    "difference": None if base is None else value.mean - base[0].mean,
                }
            )
        lines.append({"attack": key[0], "defence": key[1], "runs": entries})
    return lines


def _is_offline(results: Mapping[str, Any]) -> bool:
    return any("accuracy" in row for row in results["rows"])


def _values(results: Mapping[str, Any]) -> dict[tuple[str, str], tuple[MeanStd, int, str]]:
    """What is compared of each attack and defence, of how many seeds, and how it is written."""
    if _is_offline(results):
        lines = summarize_offline(results["rows"])
        return {(x.attack, x.defence): (x.accuracy, x.seeds, _with_hits(x)) for x in lines}
    return {
        (x.attack, x.defence): (x.accuracy_change, x.seeds, x.accuracy_change.text(sign=True))
        for x in summarize(results["rows"])
    }


def _with_hits(line: OfflineLine) -> str:
    """The accuracy, and what an attack with targets hit of them."""
    accuracy = line.accuracy.text()
    return accuracy if line.hits is None else f"{accuracy}; targets hit {line.hits.text()} %"
