"""The benchmark against other toolkits: its references, its judgement and its clock, without the other toolkits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from toolkits import aggregation, exactness, of_taster, references, timing
from toolkits.hard_inputs import FINITE, NOT_FINITE
from toolkits.rules import Rule, Updates


def judged(name: str, rule: Rule, given: str, finite: bool = True) -> dict[str, object]:
    make = {**FINITE, **NOT_FINITE}[given]
    values = make(13, 200, torch.Generator().manual_seed(0))
    return exactness._judge(name, rule, Updates(values, aggregation.num_byzantine(13)), finite)


@pytest.mark.parametrize("given", FINITE)
@pytest.mark.parametrize("name", [name for name in of_taster.rules() if name not in ("Bulyan", "centered clipping")])
def test_tasters_rules_are_their_definitions_on_hard_inputs(name: str, given: str) -> None:
    found = judged(name, of_taster.rules()[name], given)
    # Sums of float32 numbers are no nearer to the reference than their last digit, over how far clients lie apart.
    limit = {"whole models": 1e-3, "a large common number": 0.02}.get(given, 1e-6)
    assert found.get("error", 0.0) < limit
    assert found.get("score_excess", 0.0) < 1e-9


def test_another_selection_than_the_rules_is_seen() -> None:
    last = Rule(lambda updates: lambda: updates.values[-1])
    assert judged("Krum", last, "normal")["score_excess"] > 1e-3
    head = Rule(lambda updates: lambda: updates.values[: 13 - updates.num_byzantine].double().mean(0))
    assert judged("multi-Krum", head, "normal")["score_excess"] > 1e-4
    assert judged("median", Rule(lambda updates: lambda: updates.values.mean(0)), "normal")["error"] > 1e-2


def test_what_a_toolkit_raises_or_returns_for_nan_is_told() -> None:
    assert judged("Krum", of_taster.rules()["Krum"], "one NaN", finite=False) == {"raised": "BatchError"}
    assert judged("mean", of_taster.rules()["mean"], "one NaN", finite=False) == {"finite": False}
    assert judged("median", of_taster.rules()["median"], "one NaN", finite=False) == {"finite": True}


def test_a_score_sums_the_nearest_others() -> None:
    distances = references.pair_distances(np.array([[0.0], [1.0], [3.0], [7.0]]))
    assert distances[0].tolist() == [0, 1, 9, 49]
    assert references.krum_scores(distances, 2).tolist() == [10, 5, 13, 52]


def test_ways_run_in_turn_and_are_made_ready_outside_of_the_time() -> None:
    calls: list[str] = []

    def way(name: str) -> timing.Way:
        def ready():
            calls.append(f"ready {name}")
            return lambda: calls.append(name)

        return ready

    def broken():
        raise ValueError("no such layer\nand more")

    found = timing.compare({"a": way("a"), "b": way("b"), "c": lambda: broken}, rounds=2)
    assert calls == [part for _ in range(3) for name in "ab" for part in (f"ready {name}", name)]
    assert found["c"] == {"error": "ValueError: no such layer"}
    assert found["a"]["runs"] == 2
    assert found["a"]["seconds"] >= 0
