"""The published effect on real data: the accumulative phase hurts more than its controls, over seeds."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from taster.experiments import read_recipe, run_recipe


@pytest.mark.effect
def test_the_quickstart_shows_the_published_effect(tmp_path: Path) -> None:
    rows = run_recipe(read_recipe("quickstart"), tmp_path / "run")
    assert len(rows) == 6 * 3 * 3

    def drops(attack: str, defence: str) -> list[float]:
        return [row["drop"] for row in rows if (row["attack"], row["defence"]) == (attack, defence)]

    def mean(attack: str, defence: str = "none") -> float:
        return statistics.fmean(drops(attack, defence))

    assert mean("accumulative") < mean("vanilla_trigger") - 3
    assert mean("accumulative") < mean("random_noise") - 3
    assert mean("accumulative") < mean("accumulative λ=0") - 1
    assert abs(mean("none")) < 1.5
    # Within the floor until the trigger, on data that the attacker does not see.
    before = [r["acc_before"] for r in rows if r["attack"] == "accumulative" and r["defence"] == "none"]
    assert statistics.fmean(before) > 82
    # The gate bounds the harm of one step by its tolerance, but for the probe's own error.
    assert min(row["drop"] for row in rows if row["defence"] == "probe_gate") > -6
    assert all(row["rejected"] <= 1 for row in rows if (row["attack"], row["defence"]) == ("none", "probe_gate"))
