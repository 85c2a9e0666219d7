"""Modules of the user's own that a recipe names, taken along to machines that do not have them."""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import taster
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Recipe
from taster.utils.import_path import is_import_path

SIZE_LIMIT = 64 * 2**20
"""Bytes of user modules that are taken along: code and small files beside it, not data."""


def pack_user_modules(recipe: Recipe) -> dict[str, bytes]:
    """The files of the modules that the recipe names by import path, after they have been imported here.

    For each folder that holds such a module: every Python file directly in it, since modules import their neighbours,
    and those packages in it that have been imported here, whole. What is installed as a distribution, or belongs to
    Python or taster, is not taken along: the other machines have it, as they have taster.

    Returns:
        contents by path relative to those folders, with forward slashes.

    Raises:
        RecipeError: if they are larger than `SIZE_LIMIT` together.
    """
    files: dict[str, bytes] = {}
    size = 0
    for root in dict.fromkeys(_root(name) for name in sorted(_named_modules(recipe.to_dict()))):
        if root is None:
            continue
        for path in _files_of(root):
            name, content = path.relative_to(root).as_posix(), path.read_bytes()
            size += len(content) if name not in files else 0
            if size > SIZE_LIMIT:
                raise RecipeError(
                    f"{root}: the modules there that the recipe needs are larger than {SIZE_LIMIT >> 20} MiB together, "
                    "too much to take along; keep data out of their folders, or install them on every machine"
                )
            files.setdefault(name, content)
    return files


def unpack_user_modules(files: dict[str, bytes]) -> Path | None:
    """Writes the files into a new folder and has Python look for modules there first.

    Args:
        files: as `pack_user_modules` returned them.

    Returns:
        the folder; None if there are no files.

    Raises:
        RecipeError: for a path that leads out of the folder.
    """
    if not files:
        return None
    folder = Path(tempfile.mkdtemp(prefix="taster-modules-")).resolve()
    for name, content in files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise RecipeError(f"{name}: got a module's file outside of its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    sys.path.insert(0, str(folder))
    return folder


def _named_modules(value: Any) -> Iterator[str]:
    """The top-level names of all import paths anywhere in a recipe."""
    if isinstance(value, str) and is_import_path(value):
        yield value.partition(":")[0].partition(".")[0]
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _named_modules(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_modules(inner)


def _root(name: str) -> Path | None:
    """The folder that holds an imported top-level module, if other machines cannot be expected to have it."""
    module = sys.modules.get(name)
    place = None if module is None else _place(module)
    if place is None:
        return None
    root = place.parent
    elsewhere = [Path(taster.__file__).resolve().parent.parent]
    elsewhere += [Path(path).resolve() for path in sysconfig.get_paths().values()]
    return None if any(root == other for other in elsewhere) else root


def _place(module: ModuleType) -> Path | None:
    """The file of a module, or the folder of a package; None for one that is built in."""
    folders = list(getattr(module, "__path__", []))
    if folders:
        return Path(folders[0]).resolve()
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()


def _files_of(root: Path) -> Iterator[Path]:
    yield from sorted(root.glob("*.py"))
    for name, module in sorted(sys.modules.items()):
        place = _place(module) if "." not in name and isinstance(module, ModuleType) else None
        if place is None or place.parent != root or not place.is_dir():
            continue
        for path in sorted(place.rglob("*")):
            inner = path.relative_to(place).parts
            if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in inner):
                yield path
