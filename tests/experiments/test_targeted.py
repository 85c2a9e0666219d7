"""The harness of targeted attacks: a seed is a trial, the same for every attack, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import run_command, run_recipe, without_times

from taster.experiments import RunDirectory, read_recipe
from taster.experiments.recipes.schema import Recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.offline_attack import craft
from taster.report import write_report

RECIPE = """
name = "tiny-targeted"
extends = "targeted-suite"
seeds = [0, 1]

[data]
source = "digits"

[split]
train = 100
validation = 60
probe = 20
test = 100

[model]
name = "mlp"
hidden = [16]

[offline]
epochs = 2
batch_size = 20
learning_rate = 0.1

[compute]
threads = 1

[defaults.attack]
poison_fraction = 0.03
epsilon = 0.2
steps = 5
targets = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return read_recipe(str(path), [])


def test_every_attack_of_a_trial_has_the_same_targets_and_bases(recipe: Recipe) -> None:
    context = seed_context(recipe, 1)
    none = recipe.defence[0]
    attacked = {entry.label: craft(context, entry, None, none) for entry in recipe.attack if entry.name != "none"}
    first = attacked["noise"]
    assert first.target is not None
    for label, crafted in attacked.items():
        assert crafted.target is not None
        assert torch.equal(crafted.target.x, first.target.x)
        assert torch.equal(crafted.target.y, first.target.y)
        assert not (crafted.dataset.poisoned & ~first.dataset.poisoned).any()
        if label != "wrong labels":
            assert (crafted.dataset.samples.y[crafted.dataset.poisoned] == first.target.y[0]).all()
    other = craft(seed_context(recipe, 0), recipe.attack[2], None, none)
    assert other.target is not None
    assert not torch.equal(other.target.x, first.target.x)


def test_rows_tables_and_page(recipe: Recipe, tmp_path: Path) -> None:
    rows = run_recipe(recipe, tmp_path / "run")
    for row in rows:
        assert row.get("targets") == (None if row["attack"] == "none" else 2)
    assert without_times(rows) == without_times(run_recipe(recipe, tmp_path / "again"))
    page = write_report(RunDirectory(tmp_path / "run")).read_text()
    assert "Clopper-Pearson" in page
    assert "s/poison" in page
    compared = run_command("compare", tmp_path / "run", tmp_path / "again", "--json")
    assert "targets hit" in compared.stdout


@pytest.mark.parametrize("name", ["targeted", "targeted-small", "targeted-scratch-small", "targeted-table"])
def test_shipped_recipes_have_a_control_and_trials_enough(name: str) -> None:
    shipped = read_recipe(name, [])
    assert len(shipped.seeds) >= 10
    labels = {entry.label for entry in shipped.attack}
    assert {"none", "noise", "feature_collision", "convex_polytope", "bullseye_polytope"} <= labels
    assert {entry.attack for entry in shipped.published} <= labels


@pytest.mark.parametrize("name", ["gradient-matching-small", "witches-brew", "witches-brew-mixed"])
def test_recipes_of_gradient_matching_have_a_control_and_trials_enough(name: str) -> None:
    shipped = read_recipe(name, [])
    assert len(shipped.seeds) >= 10
    labels = {entry.label: entry for entry in shipped.attack}
    assert labels["noise"].name == "random_bases"
    assert any(entry.name == "gradient_matching" for entry in shipped.attack)
    assert {entry.attack for entry in shipped.published} <= set(labels)
    six = name == "witches-brew-mixed"
    assert shipped.offline is not None
    assert len({str(model) for model in shipped.offline.attacker_models}) == (6 if six else len(shipped.published) // 2)
