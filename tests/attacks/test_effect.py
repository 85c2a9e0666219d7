"""The published effect on real data: the accumulative phase hurts more than its controls, over seeds."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from taster.experiments import parse_recipe, read_recipe, run_recipe


@pytest.mark.effect
def test_the_quickstart_shows_the_published_effect(tmp_path: Path) -> None:
    raw = read_recipe("quickstart", ["seeds=6"]).to_dict()
    raw["attack"] = [
        e for e in raw["attack"] if e["label"] in ("none", "random_noise", "vanilla_trigger", "accumulative")
    ]
    raw["defence"] = [e for e in raw["defence"] if e["label"] in ("none", "guard")]
    rows = run_recipe(parse_recipe(raw), tmp_path / "run")
    assert len(rows) == 4 * 2 * 6

    def mean(attack: str, defence: str = "none", key: str = "drop") -> float:
        return statistics.fmean(r[key] for r in rows if (r["attack"], r["defence"]) == (attack, defence))

    assert mean("accumulative") < mean("vanilla_trigger") - 2
    assert mean("accumulative") < mean("random_noise") - 2
    assert abs(mean("none")) < 2
    # Within the floor until the trigger, on data that the attacker does not see.
    assert mean("accumulative", key="acc_before") > 82
    # The guard holds the harm of one step to its tolerance, but for the probe's own error, and costs nothing.
    assert min(r["drop"] for r in rows if r["defence"] == "guard") > -7
    assert mean("accumulative", "guard") > mean("accumulative") / 2
    assert mean("accumulative", "guard", "acc_after") > mean("accumulative", key="acc_after") + 2
    assert mean("none", "guard", "acc_after") > mean("none", key="acc_after") - 1
