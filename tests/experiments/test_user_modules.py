"""Modules of the user's own, packed here and unpacked elsewhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from taster.errors import RecipeError
from taster.experiments import Recipe, read_recipe
from taster.experiments.running import user_modules


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "own"
    package = root / "packed_own"
    (package / "inner").mkdir(parents=True)
    (package / ".hidden").mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner" / "nets.py").write_text("def model(shape, classes):\n    return 'ours'\n")
    (package / "table.csv").write_text("1,2\n")
    (package / ".hidden" / "secret").write_text("x")
    (root / "beside.py").write_text("B = 1\n")
    (root / "notes.txt").write_text("not a module")
    monkeypatch.syspath_prepend(str(root))
    importlib.import_module("packed_own.inner.nets")
    return root


@pytest.fixture
def own_recipe(own_package: Path, recipe_with: Callable[..., Path]) -> Recipe:
    return read_recipe(str(recipe_with(('name = "mlp"\nhidden = [16]', 'name = "packed_own.inner.nets:model"'))))


def test_packages_go_whole_and_neighbours_with_them(own_recipe: Recipe) -> None:
    packed = user_modules.pack_user_modules(own_recipe)
    assert sorted(packed) == [
        "beside.py",
        "packed_own/__init__.py",
        "packed_own/inner/nets.py",
        "packed_own/table.csv",
    ]


def test_nothing_goes_for_names_of_tasters_own(tiny_recipe: Path) -> None:
    assert user_modules.pack_user_modules(read_recipe(str(tiny_recipe))) == {}
    assert user_modules.unpack_user_modules({}) is None


def test_unpacked_modules_are_imported_first(
    own_recipe: Recipe, own_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = user_modules.pack_user_modules(own_recipe)
    for name in [name for name in sys.modules if name.partition(".")[0] == "packed_own"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = user_modules.unpack_user_modules(packed)
    assert folder is not None
    module = importlib.import_module("packed_own.inner.nets")
    assert Path(str(module.__file__)).is_relative_to(folder)
    assert (folder / "packed_own" / "table.csv").read_text() == "1,2\n"


def test_a_path_out_of_the_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(RecipeError, match="outside of its folder"):
        user_modules.unpack_user_modules({"../escaped.py": b""})


def test_large_modules_are_refused(own_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_modules, "SIZE_LIMIT", 10)
    with pytest.raises(RecipeError, match="too much to take along"):
        user_modules.pack_user_modules(own_recipe)
