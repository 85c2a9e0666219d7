"""How near each toolkit's aggregate is to the rule's definition in float64, on easy and hard float32 updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from toolkits import references
from toolkits.aggregation import all_rules, num_byzantine
from toolkits.hard_inputs import FINITE, NOT_FINITE
from toolkits.rules import Matrix, Rule, Updates
from toolkits.timing import as_array

CLIENTS, SIZE = 30, 2_000

_SCORED = ("Krum", "multi-Krum")
"""Rules that select clients by the scores of Krum."""


def measure(draws: int) -> list[dict[str, Any]]:
    """A row for each input, rule and toolkit.

    Of rules that select, `score_excess`: the sum of Krum's scores over the selected clients beyond the least possible,
    relative, by the toolkit's own number of neighbours; and `right`, in how many draws it was zero. Of the others,
    `error`: the distance to the reference over the root mean square distance of updates to their mean (of those that
    are not huge). The largest of the draws. Of input that is not finite: `finite`, whether the result is.
    """
    rows = []
    for name, make in {**FINITE, **NOT_FINITE}.items():
        for rule in all_rules()["taster"]:
            if rule in ("Bulyan", "centered clipping"):
                continue
            for toolkit, rules in all_rules().items():
                if rule in rules:
                    found = [_judge(rule, rules[rule], _draw(make, seed), name in FINITE) for seed in range(draws)]
                    rows.append({"input": name, "rule": rule, "toolkit": toolkit, **_worst(found)})
                    print(_line(rows[-1]), flush=True)
    return rows


def _draw(make: Any, seed: int) -> Updates:
    return Updates(make(CLIENTS, SIZE, torch.Generator().manual_seed(seed)), num_byzantine(CLIENTS))


def _judge(name: str, rule: Rule, updates: Updates, finite: bool) -> dict[str, Any]:
    values = updates.array.copy()
    try:
        found = as_array(rule.ready(updates)()).ravel()
    except Exception as error:  # what another toolkit does with an input is what is asked
        return {"raised": type(error).__name__}
    if not finite:
        return {"finite": bool(np.isfinite(found).all())}
    if not np.isfinite(found).all():
        return {"finite": False}
    n, f = len(values), updates.num_byzantine
    if name in _SCORED:
        scores = references.krum_scores(references.pair_distances(values), rule.neighbors(n, f))
        return {"score_excess": _score_excess(values, found, scores, 1 if name == "Krum" else n - f)}
    usual = values[np.abs(values).max(1) < 1e20].astype(np.float64)
    spread = np.sqrt(((usual - usual.mean(0)) ** 2).sum(1).mean())
    definitions: dict[str, Callable[[], Matrix]] = {
        "mean": lambda: values.astype(np.float64).mean(0),
        "median": lambda: references.median(values),
        "trimmed mean": lambda: references.trimmed_mean(values, f),
        "geometric median": lambda: references.geometric_median(values),
        "clipping, mean": lambda: references.clipped(values, updates.clip_norm).mean(0),
        "NNM, trimmed mean": lambda: references.trimmed_mean(references.mixed(values, f), f),
    }
    reference = definitions[name]()
    scale = max(spread, float(np.linalg.norm(reference))) if np.abs(values).max() > 1e20 else spread
    return {"error": float(np.linalg.norm(found - reference) / scale)}


def _score_excess(values: Matrix, found: Matrix, scores: Matrix, keep: int) -> float:
    """How much worse than the best selection is the one whose mean the aggregate is."""
    if keep == 1:
        chosen = [int(np.abs(values.astype(np.float64) - found).max(1).argmin())]
    else:
        chosen = _selected(values.astype(np.float64), found, keep)
    best = np.sort(scores)[:keep].sum()
    return float(scores[chosen].sum() / best - 1)


def _selected(values: Matrix, found: Matrix, keep: int) -> list[int]:
    """The rows whose mean an aggregate is, by least squares; duplicates count as often as their share says."""
    usual = np.abs(values).max(1) < 1e20
    places = np.flatnonzero(usual)
    rows, inverse = np.unique(values[usual], axis=0, return_inverse=True)
    center = rows.mean(0)
    shares = np.linalg.lstsq((rows - center).T, found - center, rcond=None)[0]
    shares += (1 - shares.sum()) / len(shares)
    times = np.rint(shares * keep).astype(int)
    chosen: list[int] = []
    for row, count in enumerate(times):
        chosen += list(places[inverse == row][: max(count, 0)])
    if len(chosen) != keep:
        raise RuntimeError(f"got {len(chosen)} rows that an aggregate is the mean of, wanted {keep}")
    return chosen


def _worst(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several draws."""
    for key in ("raised", "finite"):
        held = [one[key] for one in found if key in one]
        if held:
            return {key: held[0] if key == "raised" else all(held), "draws": len(found)}
    key = next(iter(found[0]))
    worst = {key: max(one[key] for one in found), "draws": len(found)}
    if key == "score_excess":
        worst["right"] = sum(one[key] < 1e-9 for one in found)
    return worst


def _line(row: dict[str, Any]) -> str:
    start = f"| {row['input']} | {row['rule']} | {row['toolkit']} |"
    if "raised" in row:
        return f"{start} raises {row['raised']} |"
    if "finite" in row:
        return f"{start} {'finite' if row['finite'] else 'not finite'} |"
    if "error" in row:
        return f"{start} error {row['error']:.1e} |"
    return f"{start} right {row['right']} of {row['draws']}, excess {row['score_excess']:.1e} |"
