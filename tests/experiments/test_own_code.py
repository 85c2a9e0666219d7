"""Models, defences and scores of the user's own, and what is said when they fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import run_recipe, without_times
from tests.experiments.conftest import Stop

from taster.errors import ModelError, RecipeError
from taster.experiments import read_recipe

MODULE = """
import torch
from torch import nn
from taster import Guard

def narrow(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def picky(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10))

def nothing(shape, classes):
    return None

def broken(shape, classes):
    raise RuntimeError("no luck")

def not_a_guard(probe):
    return "guard"

def raises(probe):
    raise KeyError("lost")

def breaks(probe):
    def gate(change):
        raise ZeroDivisionError("oops")
    return Guard(gates=[gate])

class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.dropout = nn.Dropout(0.5)
    def forward(self, x):
        return self.fc(self.dropout(x.flatten(1)))

def drops(shape, classes):
    return Drops()
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


MODEL = 'name = "mlp"\nhidden = [16]'


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("narrow", r"returned \[2, 7\] for two samples, wanted \[2, 10\]"),
        ("picky", "cannot take samples of"),
        ("nothing", "returned NoneType, wanted a torch.nn.Module"),
        ("broken", "RuntimeError: no luck"),
    ],
)
def test_models_that_do_not_fit_are_told_before_anything_is_written(
    function: str, message: str, own_module: str, recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = read_recipe(str(recipe_with((MODEL, f'name = "{own_module}:{function}"'))))
    with pytest.raises(ModelError, match=message):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_defence_that_is_no_guard_is_told(own_module: str, recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    recipe = read_recipe(str(recipe_with(('"probe_gate"', f'"{own_module}:not_a_guard"'))))
    with pytest.raises(RecipeError, match=r"returned str, wanted a Guard"):
        run_recipe(recipe, tmp_path / "run")
    for function, message in (("raises", "raised KeyError"), ("breaks", "raised ZeroDivisionError: oops")):
        path = recipe_with(('"probe_gate"', f'"{own_module}:{function}"'))
        with pytest.raises(RecipeError, match=message):
            run_recipe(read_recipe(str(path)), tmp_path / function)


def test_dropout_is_the_same_for_all_and_on_resuming(
    own_module: str, recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = read_recipe(str(recipe_with((MODEL, f'name = "{own_module}:drops"'))))
    a = run_recipe(recipe, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "b", progress=Stop(47))
    assert without_times(run_recipe(recipe, tmp_path / "b", resume=True)) == without_times(a)


def test_a_score_that_is_none_is_told(
    recipe_with: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_scores.py").write_text("def nothing():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    path = recipe_with()
    path.write_text(path.read_text() + '[[score]]\nname = "own_scores:nothing"\n')
    with pytest.raises(RecipeError, match="returned int, wanted a Score"):
        run_recipe(read_recipe(str(path)), tmp_path / "run")
