"""How defences stand over all attacks of a run, and what gates can miss for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from taster.experiments import RunDirectory, read_recipe, run_recipe
from taster.report import summarize, write_report
from taster.report.defence_ranking import HEADINGS, rank_defences
from taster.report.summary_text import sentences

FIGURES = {
    # attack, defence: after, worst step, refused
    ("honest", "bare"): (90.0, -0.5, 0),
    ("honest", "gate"): (89.8, -0.4, 1),
    ("flip", "bare"): (40.0, -30.0, 0),
    ("flip", "gate"): (89.5, -0.6, 4),
    ("trigger", "bare"): (50.0, -45.0, 0),
    ("trigger", "gate"): (89.0, -0.9, 2),
}


def rows(figures: dict[tuple[str, str], tuple[float, float, int]] = FIGURES) -> list[dict[str, object]]:
    return [
        {
            "attack": attack, "defence": defence, "seed": seed, "acc_start": 90.0, "acc_before": 90.0, "steps": 3,
            "acc_after": after + seed, "drop": after + seed - 90.0, "worst_step": worst, "stopped_by": "steps",
            "rejected": refused, "seconds": 1.0, "cost": 2.0,
        }
        for (attack, defence), (after, worst, refused) in figures.items()
        for seed in (0, 1)
    ]  # fmt: skip


def test_each_defence_is_held_to_the_worst_that_got_past_it() -> None:
    bare, gate = rank_defences(summarize(rows()), "honest", "bare")
    assert bare.cells() == ["bare", "0.0", "0.0", "−50.0", "flip", "−45.0", "trigger", "–"]
    assert gate.cells() == ["gate", "−0.2", "25.0", "−1.0", "trigger", "−0.9", "trigger", "2.00"]
    assert len(gate.cells()) == len(HEADINGS)


@pytest.mark.parametrize(("honest", "undefended"), [(None, "bare"), ("honest", None), ("honest", "none such")])
def test_without_a_control_nobody_stands(honest: str | None, undefended: str | None) -> None:
    assert rank_defences(summarize(rows()), honest, undefended) == []
    alone = {key: value for key, value in FIGURES.items() if key[0] == "honest"}
    assert rank_defences(summarize(rows(alone)), "honest", "bare") == []


def test_the_page_shows_how_defences_stand_and_what_gates_can_miss(
    recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with(('name = "probe_gate"', 'name = "guard"'))
    recipe = read_recipe(str(path))
    found = run_recipe(recipe, tmp_path / "run", jobs=1)
    guarded = [row for row in found if row["defence"] == "guard"]
    promises = [row["detection_bound"] for row in guarded]
    assert all(p["checks"] >= row["steps"] + 1 for p, row in zip(promises, guarded, strict=True))
    assert all(p["samples"] == recipe.split.probe for p in promises)
    assert all(row["detection_bound"] is None for row in found if row["defence"] == "none")
    assert all(row["worst_step"] <= min(0.0, row["drop"]) for row in found)
    page = write_report(RunDirectory(tmp_path / "run")).read_text()
    assert "How the defences compare" in page
    table = page[page.index(">What the gates can miss</h2>") :]
    bounds = [f"{p['max_accuracy_drop']:.1f}" for p in promises]
    assert re.findall(r"<td>(\d+\.\d)</td>", table)[:2] == [min(bounds, key=float), max(bounds, key=float)]


def test_a_page_of_many_defences_opens_with_the_best_and_the_worst_of_them() -> None:
    figures = {}
    for i, defence in enumerate(["bare", "gate", "clip", "screen", "mix"]):
        figures["honest", defence] = (91.0, 0.0, 0)
        figures["noise", defence] = (91.0 - 10 * i if i else 20.0, -1.0, 0)
        figures["flip", defence] = (60.0, -1.0, 0) if defence == "clip" else (90.5, -1.0, 0)
    lines = summarize(rows(figures))
    labels = dict.fromkeys(line.defence for line in lines)
    names = [SimpleNamespace(name="none" if label == "bare" else label, label=label) for label in labels]
    recipe = SimpleNamespace(model=SimpleNamespace(name="net"), data=SimpleNamespace(source="d"), attack=[1, 2, 3])
    recipe.defence, recipe.federated = names, None
    done, stand = sentences(recipe, lines, rank_defences(lines, "honest", "bare"), "bare")  # type: ignore[arg-type]
    assert "behind each of 5 defences" in done
    assert "was −71.0 points (noise) with no defence, −10.0 points (noise) behind gate, which lost least, and" in stand
    assert stand.endswith("−40.0 points (noise) behind mix, which lost most.")
