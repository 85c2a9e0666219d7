"""Weights from elsewhere in place of a burn-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import Rows, run_recipe

from taster import load_state, save_state
from taster.errors import CheckpointError
from taster.experiments import RunDirectory, read_recipe

BURN_IN = "epochs = 2\nbatch_size = 20\nkeep_epochs = [1]"


def test_weights_from_elsewhere_take_the_place_of_the_burn_in(
    reference: tuple[Path, Rows], recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    state = load_state(reference[0] / "burn_in" / "seed-0.safetensors")
    save_state(tmp_path / "w.safetensors", state)
    recipe = read_recipe(
        str(recipe_with((BURN_IN, f'epochs = 0\ncheckpoint = "{tmp_path}/w.safetensors"'), ("[0, 1]", "[0]")))
    )
    rows = run_recipe(recipe, tmp_path / "run")
    assert rows[0]["acc_start"] == reference[1][0]["acc_start"]


def test_earlier_weights_are_a_past_to_compare_with(
    reference: tuple[Path, Rows], recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    state = load_state(reference[0] / "burn_in" / "seed-0.safetensors")
    save_state(tmp_path / "w.safetensors", state)
    save_state(tmp_path / "early.safetensors", state["snapshots"]["pinned"]["epoch-1"]["params"])
    ours = f'checkpoint = "{tmp_path}/w.safetensors"\nearlier = {{early = "{tmp_path}/early.safetensors"}}'
    defence = ('name = "probe_gate"', 'name = "dsc"\nreference_model = "{}"\nthreshold = 0.05')
    rows = {}
    for label, burn_in in (("early", ours), ("epoch-1", BURN_IN)):
        change = (defence[0], defence[1].format(label))
        path = recipe_with((BURN_IN, burn_in), ("[0, 1]", "[0]"), change)
        recipe = read_recipe(str(path), ["stream.fresh_optimizer=true"])
        run_recipe(recipe, tmp_path / label)
        steps = RunDirectory(tmp_path / label).finished(recipe)
        rows[label] = [[s["corrected"] for s in cell["steps"]] for cell in steps if cell["row"]["defence"] == "dsc"]
    assert rows["early"] == rows["epoch-1"]
    assert 0 < rows["early"][0][0] < 20


def test_weights_that_do_not_fit_are_listed_by_name(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    save_state(tmp_path / "w.safetensors", {"model": {"1.weight": torch.ones(3, 3), "extra": torch.ones(1)}})
    recipe = read_recipe(str(recipe_with((BURN_IN, f'epochs = 0\ncheckpoint = "{tmp_path}/w.safetensors"'))))
    with pytest.raises(CheckpointError) as caught:
        run_recipe(recipe, tmp_path / "run")
    message = str(caught.value)
    for part in ("1.weight: got [3, 3], wanted [16, 64]", "1.bias: missing in the file", "extra: not in the model"):
        assert part in message
    recipe = read_recipe(str(recipe_with((BURN_IN, 'epochs = 0\ncheckpoint = "nowhere.safetensors"'))))
    with pytest.raises(CheckpointError, match="no such file"):
        run_recipe(recipe, tmp_path / "run")
