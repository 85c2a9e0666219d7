"""Targets hit: counted over seeds, with a binomial interval, in the tables and between runs."""

from __future__ import annotations

from typing import Any

import pytest

from taster.report import offline_legend, offline_table, summarize_offline
from taster.report.compare import compare_runs
from taster.report.details import collect_offline_details


def row(attack: str, seed: int, **more: Any) -> dict[str, Any]:
    return {
        "attack": attack,
        "defence": "none",
        "seed": seed,
        "accuracy": 80.0 + seed,
        "recall": [80.0, None],
        "samples": 100,
        "poisoned": 5,
        "inserted": 0,
        "kept": 100,
        "precision": None,
        "found": None,
        "steps": 10,
        "refused": 0,
        "seconds_attack": 2.0,
        "seconds_training": 1.0,
        **more,
    }


HITS = [row("hits", seed, target_success=success, targets=3) for seed, success in enumerate([100.0, 200 / 3, 0.0])]
CLEAN = [row("none", seed) for seed in range(3)]


def test_seeds_and_targets_are_counted_together() -> None:
    hits, none = summarize_offline(HITS + CLEAN)
    assert hits.hits is not None
    assert (hits.hits.successes, hits.hits.trials) == (5, 9)
    assert hits.seconds_a_poison is not None
    assert hits.seconds_a_poison.mean == pytest.approx(0.4)
    assert none.hits is None
    assert none.seconds_a_poison is None


@pytest.mark.parametrize("narrow", [True, False])
def test_tables_show_the_interval_and_the_seconds(narrow: bool) -> None:
    headings, rows = offline_table(summarize_offline(HITS + CLEAN), narrow=narrow)
    cells = dict(zip(headings, rows[0], strict=True))
    assert cells["targets hit"] == "56 (21 to 86)"
    assert cells["s/poison"] == "0.40"
    assert dict(zip(headings, rows[1], strict=True))["targets hit"] == "–"
    assert "Clopper-Pearson" in offline_legend(headings)
    headings, _ = offline_table(summarize_offline(CLEAN), narrow=narrow)
    assert "s/poison" not in headings


def test_what_changed_nothing_took_no_seconds_a_poison() -> None:
    (line,) = summarize_offline([row("clean", 0, target_success=0.0, targets=1, poisoned=0)])
    assert line.seconds_a_poison is None
    assert line.hits is not None
    assert line.hits.text() == "0 (0 to 98)"


def test_rows_that_do_not_say_how_many_targets_there_were_have_a_mean() -> None:
    old = [row("hits", seed, target_success=50.0) for seed in range(2)]
    headings, rows = offline_table(summarize_offline(old))
    assert dict(zip(headings, rows[0], strict=True))["targets hit"] == "50.0 ± 0.0"


def test_runs_are_compared_with_their_targets() -> None:
    lines = compare_runs([("a", {"rows": HITS + CLEAN}), ("b", {"rows": HITS})])
    assert [entry and entry["text"] for entry in lines[0]["runs"]] == 2 * ["81.0 ± 1.0; targets hit 56 (21 to 86) %"]
    assert lines[1]["runs"][0]["text"] == "81.0 ± 1.0"


def test_epochs_without_a_measurement_are_no_part_of_the_curves() -> None:
    def line(epoch: int, accuracy: float | None) -> dict[str, Any]:
        return {"epoch": epoch, "test_accuracy": accuracy, "loss_clean": accuracy, "loss_poisoned": None}

    cell = {"row": row("hits", 0), "steps": [line(1, None), line(2, 50.0), line(3, None), line(4, 60.0)]}
    (curve,) = collect_offline_details([cell]).trainings
    assert curve.epochs == [2, 4]
    assert curve.test_accuracy == curve.loss_clean == [50.0, 60.0]
    assert curve.success == curve.loss_poisoned == [None, None]
