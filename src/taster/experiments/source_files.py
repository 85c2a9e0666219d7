"""Which files of taster's source a recipe's run uses."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from taster.experiments.checkout import PACKAGE
from taster.experiments.recipes.registry import Kind, find_factory
from taster.experiments.recipes.schema import Named, Recipe

_ALWAYS = ("core", "data", "experiments")
_FEDERATED = ("client_gradients", "federated")
_OFFLINE = ("offline",)
_NOT_CODE = "experiments/recipes/library/"
"""Recipes: these are compared by what they resolve to."""


def source_files(recipe: Recipe) -> frozenset[str]:
    """The files that a run of a recipe uses, relative to the package, at a coarse grain.

    They are all of `core`, `data` and `experiments` (without the recipe library), of a federation also
    `client_gradients` and `federated`, of an offline recipe `offline`; and the modules of the functions that the recipe
    names (attacks, defences with those of `plus`, scores, models of the learner, of surrogates and of the attacker, the
    aggregator), with every module of taster that these import, directly or through others. Functions of the user's own
    are not among them.
    """
    folders = (*_ALWAYS, *(_FEDERATED if recipe.federated else ()), *(_OFFLINE if recipe.offline else ()))
    whole = {
        name
        for folder in folders
        for path in (PACKAGE / folder).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not (name := path.relative_to(PACKAGE).as_posix()).startswith(_NOT_CODE)
    }
    found: set[Path] = set()
    waiting = list(_modules_named(recipe))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported_by(path)
    return frozenset(whole | {path.relative_to(PACKAGE).as_posix() for path in found})


def _modules_named(recipe: Recipe) -> Iterator[Path]:
    """The files of the functions that a recipe names and that are taster's."""
    entries: list[tuple[Kind, Named]] = [("model", recipe.model)]
    entries += [("attack", entry) for entry in recipe.attack]
    for defence in recipe.defence:
        entries += [("defence", defence), *(("defence", Named(name=name)) for name in defence.plus or [])]
    entries += [("score", entry) for entry in recipe.score]
    entries += [("model", surrogate.model) for surrogate in recipe.surrogate if surrogate.model]
    if recipe.offline:
        entries += [("model", model) for model in recipe.offline.attacker_models]
    if recipe.federated:
        entries.append(("aggregator", recipe.federated.aggregator))
    for kind, entry in entries:
        module = inspect.unwrap(find_factory(kind, entry.name).function).__module__
        path = _file_of(module)
        if path is not None:
            yield path


def _file_of(module: str) -> Path | None:
    """The file of one of taster's modules; None if it is not one."""
    first, *parts = module.split(".")
    if first != PACKAGE.name:
        return None
    folder = PACKAGE.joinpath(*parts)
    candidates = (folder / "__init__.py", folder.parent / f"{folder.name}.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _imported_by(path: Path) -> tuple[Path, ...]:
    """The files of the modules of taster that a file imports, at its top or anywhere in it. Packages count where
    something is taken from them by their own name, and not for being above a module."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found for name in names if (found := _file_of(name)) is not None)
