"""Scores, surrogates and the attacker's simulator in whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tests.conftest import files_without_times, run_recipe, without_times

from taster import load_state
from taster.experiments import parse_recipe, read_recipe


def test_scores_surrogates_and_a_rehearsal_go_through_a_run(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    extra = (
        '[[attack]]\nname = "accumulative"\nlabel = "other seed"\nepsilon = 0.2\npgd_steps = 2\n'
        'validation_size = 40\nsurrogate = "seed"\n'
        '[[attack]]\nname = "accumulative"\nlabel = "other model"\nepsilon = 0.2\npgd_steps = 2\n'
        'validation_size = 40\nsurrogate = "cnn"\n'
        '[[attack]]\nname = "guard_aware"\nepsilon = 0.2\npgd_steps = 2\nvalidation_size = 40\n'
        '[[attack]]\nname = "ood_images"\nsource = "digits"\n'
        '[[score]]\nname = "memorization_discrepancy"\nreference_model = "epoch-1"\n'
        '[[score]]\nname = "anomaly"\ndetector = "lid"\n[[score]]\nname = "loss"\n'
        '[[surrogate]]\nlabel = "seed"\n'
        '[[surrogate]]\nlabel = "cnn"\nmodel = {name = "small_cnn", width = 4}\n'
    )
    path = recipe_with()
    path.write_text(path.read_text() + extra)
    recipe = read_recipe(str(path), ["seeds=[0]"])
    rows = run_recipe(recipe, tmp_path / "run")
    assert len(rows) == 6 * 2
    by_attack = {row["attack"]: row["scores"] for row in rows if row["defence"] == "none"}
    for attack, scores in by_attack.items():
        assert list(scores) == ["memorization_discrepancy", "anomaly", "loss"]
        assert set(scores["loss"]) == {"accumulate", "trigger"}
        assert ("auc" in scores["loss"]["trigger"]) == (attack != "none")
    # Poison crafted on another model is other poison.
    losses = {a: by_attack[a]["loss"]["accumulate"]["poisoned"] for a in ("accumulative", "other seed", "other model")}
    assert len(set(losses.values())) == 3
    state = load_state(tmp_path / "run" / "burn_in" / "seed-0.safetensors")
    assert list(state["surrogates"]) == ["seed", "cnn"]
    assert not torch.equal(next(iter(state["surrogates"]["seed"].values())), next(iter(state["model"].values())))
    steps = files_without_times(tmp_path / "run")
    assert all(set(step["scores"]) == {"memorization_discrepancy", "anomaly", "loss"} for step in steps)
    # Scores only look: the rows are those of a run without them.
    plain = parse_recipe({**recipe.to_dict(), "score": []})
    without = run_recipe(plain, tmp_path / "plain")
    assert [{k: v for k, v in row.items() if k != "scores"} for row in without_times(rows)] == without_times(without)


def test_a_score_by_steps_back_begins_with_the_present(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with()
    path.write_text(path.read_text() + '[[score]]\nname = "memorization_discrepancy"\nreference_model = 2\n')
    run_recipe(read_recipe(str(path), ["seeds=[0]", "history.capacity=3"]), tmp_path / "run")
    steps = files_without_times(tmp_path / "run")[:3]
    means = [step["scores"]["memorization_discrepancy"]["clean"] for step in steps]
    assert means[0] == 0.0
    assert means[1] > 0
