"""Recipes from TOML files: the shipped ones, and how one extends others."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from taster.errors import RecipeError
from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.recipes.overrides import apply_override
from taster.experiments.recipes.raw_values import check_values, parse_toml, shorten, take_format
from taster.experiments.recipes.schema import Recipe

_MAX_SIZE = 2**20
"""Bytes of a recipe's file."""


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with taster, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.toml"))}


def read_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe by the name of a shipped one or the path of a TOML file.

    Args:
        name: of a shipped recipe, or the path of a TOML file.
        overrides: `key=value`, applied in order; see `apply_override`.

    Raises:
        RecipeError: with every fault, one a line.
    """
    raw = _read(name, Path(), ())
    for override in overrides or []:
        apply_override(raw, override)
    return parse_recipe(raw, shorten(name))


def merge_recipes(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Lays `own` over `base`.

    Tables are merged key by key. Anything else is replaced, lists of entries too, and so is a table that names another
    function, as settings of the old one mean nothing to it.
    """
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
    shown = shorten(name)
    path = _bases().get(name, folder / name)
    resolved, text = _read_text(path, shown, above)
    raw = take_format(parse_toml(text, shown), shown)
    if faults := check_values(raw):
        raise RecipeError(f"{shown}: {'; '.join(faults)}")
    bases = raw.pop("extends", [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(
            f"{shown}: extends: got {bases!r:.200}, wanted the name or file of a recipe, or a list of them"
        )
    found: dict[str, Any] = {}
    for base in bases:
        found = merge_recipes(found, _read(base, path.parent, (*above, resolved)))
    return merge_recipes(found, raw)


def _read_text(path: Path, shown: str, above: tuple[Path, ...]) -> tuple[Path, str]:
    """The resolved path and the content of a recipe's file, after making sure that no recipe extends itself."""
    try:
        resolved = path.resolve()
        if resolved in above:
            raise RecipeError(f"{above[0]}: extends: {shown} leads back to itself")
        with open(path, "rb") as file:
            content = file.read(_MAX_SIZE + 1)
        if len(content) > _MAX_SIZE:
            raise RecipeError(f"{shown}: got more than {_MAX_SIZE} bytes, wanted a recipe")
        return resolved, content.decode()
    except FileNotFoundError as error:
        where = f"{above[-1]}: extends: " if above else ""
        raise RecipeError(
            f"{where}{shown}: no such recipe; there are {', '.join(shipped_recipes())}, or give a TOML file"
        ) from error
    except RecipeError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a folder, not UTF-8, NUL in the path, a loop of links
        raise RecipeError(f"{shown}: cannot be read: {error}") from error


def _folder() -> Path:
    return Path(str(resources.files("taster.experiments.recipes") / "library"))


def _bases() -> dict[str, Path]:
    """What a recipe can extend by name: the shipped recipes, and the parts that they share."""
    return {path.stem: path for path in sorted((_folder() / "parts").glob("*.toml"))} | shipped_recipes()
