"""Recipes from TOML files: those that come with taster, and how one builds on others."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from taster.errors import RecipeError
from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.recipes.overrides import apply_override
from taster.experiments.recipes.schema import Recipe


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with taster, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.toml"))}


def read_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe by the name of a shipped one or the path of a TOML file, with `key=value` changes applied.

    Raises:
        RecipeError: with every fault, one a line.
    """
    raw = _read(name, Path(), ())
    for change in overrides or []:
        apply_override(raw, change)
    return parse_recipe(raw, name)


def merge_recipes(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` laid over `base`: tables are merged key by key; anything else, lists of entries too, is replaced, and so is
    a table that names another function: settings of the old one mean nothing to it."""
    found = dict(base)
    for key, value in own.items():
        under = found.get(key)
        if isinstance(value, dict) and isinstance(under, dict) and _same_function(value, under):
            found[key] = merge_recipes(under, value)
        else:
            found[key] = value
    return found


def _same_function(own: dict[str, Any], base: dict[str, Any]) -> bool:
    return bool(own.get("name", base.get("name")) == base.get("name"))


def _read(name: str, folder: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's content over that of the recipes it names in `extends`, the later of them over the earlier."""
    path = _bases().get(name, folder / name)
    if path.resolve() in above:
        raise RecipeError(f"{above[0]}: extends: {name} leads back to itself")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        where = f"{above[-1]}: extends: " if above else ""
        raise RecipeError(
            f"{where}{name}: no such recipe; there are {', '.join(shipped_recipes())}, or give a TOML file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name}: not TOML: {error}") from error
    bases = raw.pop("extends", [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(f"{name}: extends: got {bases!r}, wanted the name or file of a recipe, or a list of such")
    found: dict[str, Any] = {}
    for base in bases:
        found = merge_recipes(found, _read(base, path.parent, (*above, path.resolve())))
    return merge_recipes(found, raw)


def _folder() -> Path:
    return Path(str(resources.files("taster.experiments.recipes") / "library"))


def _bases() -> dict[str, Path]:
    """What a recipe can extend by name: the shipped ones, and the parts that they share."""
    return {path.stem: path for path in sorted((_folder() / "parts").glob("*.toml"))} | shipped_recipes()
