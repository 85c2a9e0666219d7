"""Results that are kept, and which of them are stale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taster.errors import RecipeError, RunDirectoryError
from taster.experiments.checkout import Checkout
from taster.experiments.recipes.files import read_recipe, shipped_recipes
from taster.experiments.recipes.schema import Recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.source_files import source_files

_FILES = ("recipe.toml", "environment.json")
_LABELLED = ("attack", "defence", "score", "surrogate")


@dataclass(frozen=True)
class KeptResult:
    """A result that is kept, beside the recipe and the code of today.

    Attributes:
        name: of its folder.
        recipe: name of its recipe; None if that cannot be read.
        commit: of the code that it was made by, with "+" for changes that were not committed; None if not recorded.
        seeds: that it has.
        settings: those that the library's recipe of that name resolves to otherwise today; None if they cannot be
            compared.
        code: the files of the source that have changed since, of those that its run uses; None if that is not known.
        notes: why something cannot be compared.
    """

    name: str
    recipe: str | None = None
    commit: str | None = None
    seeds: list[int] = field(default_factory=list)
    settings: list[str] | None = None
    code: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def stale(self) -> bool | None:
        """Whether settings or code are others today; None if none of what is known is, and not everything is known."""
        if self.settings or self.code or self.recipe is None:
            return True
        known = self.settings is not None and self.code is not None and not (self.commit or "").endswith("+")
        return False if known else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {
            "result": self.name,
            "recipe": self.recipe,
            "commit": self.commit,
            "seeds": self.seeds,
            "settings": self.settings,
            "code": self.code,
            "notes": self.notes,
            "stale": self.stale,
        }


def kept_results(directory: Path, checkout: Checkout | None) -> list[KeptResult]:
    """The results in a folder, by name, each compared with the recipe and the code of today.

    A result is a folder with `recipe.toml` and `environment.json`. It is stale if either of these has changed:

    - Settings: what the library's recipe of the same name resolves to, against the result's `recipe.toml`, every
      default filled in. Left aside are what does not decide on figures (description, source, published figures), seeds,
      which are listed, `compute.device` and `compute.threads`, and of `data.source` all but the last part of a path or
      hub name. A setting that the result's file does not have is taken to be today's default. A result that was made
      with `--set` differs from its recipe by that.
    - Code: the files of `taster.experiments.source_files.source_files` that differ from those at the result's commit,
      in whatever way, be it a comment. Changes that are not committed count, and of a result that was itself made with
      such ("+") it is not known what code it was made by.

    Args:
        directory: with the results' folders, or that of one result.
        checkout: that of taster's source; without one code cannot be compared.

    Raises:
        RunDirectoryError: if there is no such folder, or no result in it.
    """
    folders = _folders(directory)
    if not folders:
        raise RunDirectoryError(f"{directory}: no results in it, wanted folders with {' and '.join(_FILES)}")
    return [_compare(folder, checkout) for folder in folders]


def _folders(directory: Path) -> list[Path]:
    """The folder itself if it is a result, else the results in it, by name."""
    try:
        if not directory.is_dir():
            raise RunDirectoryError(f"{directory}: no such folder, wanted one with results, such as results/")
        if _is_result(directory):
            return [directory]
        return sorted(path for path in directory.iterdir() if _is_result(path))
    except RunDirectoryError:
        raise
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be read, a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunDirectoryError(f"{directory!s:.200}: cannot be read: {reason}") from error


def _is_result(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _compare(folder: Path, checkout: Checkout | None) -> KeptResult:
    run, name, notes = RunDirectory(folder), folder.resolve().name, []
    try:
        commit = run.environment().get("commit")
    except RunDirectoryError as error:
        commit = None
        notes.append(str(error))
    try:
        recipe = run.recipe()
    except RunDirectoryError as error:
        return KeptResult(name, commit=commit, notes=[*notes, str(error)])
    return KeptResult(
        name,
        recipe=recipe.name,
        commit=commit,
        seeds=list(recipe.seeds),
        settings=_settings(recipe, notes),
        code=_code(recipe, commit, checkout, notes),
        notes=notes,
    )


def _settings(recipe: Recipe, notes: list[str]) -> list[str] | None:
    if recipe.name not in shipped_recipes():
        notes.append(f"the library has no recipe {recipe.name}")
        return None
    try:
        today = read_recipe(recipe.name)
    except RecipeError as error:
        notes.append(f"the library's recipe cannot be read: {error}")
        return None
    return differing_settings(recipe, today)


def _code(recipe: Recipe, commit: str | None, checkout: Checkout | None, notes: list[str]) -> list[str] | None:
    if checkout is None:
        return None  # said once for all results
    if commit is None:
        notes.append("no commit was recorded")
        return None
    if commit.endswith("+"):
        notes.append("made with changes that were not committed")
    changed = checkout.changed_since(commit.removesuffix("+"))
    if changed is None:
        notes.append(f"the checkout has no commit {commit}")
        return None
    return sorted(changed & source_files(recipe))


def differing_settings(made: Recipe, today: Recipe) -> list[str]:
    """The settings that decide on figures and that two recipes do not share, a line for each.

    Args:
        made: the recipe of a result.
        today: what it is compared with.
    """
    return _differences(_deciding(made), _deciding(today), "")


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe that decide on figures; entries by their labels."""
    values = recipe.to_dict()
    for key in ("name", "description", "source", "seeds", "published"):
        values.pop(key, None)
    for key in ("device", "threads"):  # a run writes what it found
        values["compute"].pop(key, None)
    values["data"]["source"] = Path(values["data"]["source"]).name.casefold()
    for key in _LABELLED:
        values[key] = {entry.pop("label"): entry for entry in values.get(key, [])}
    return values


def _differences(made: Mapping[str, Any], today: Mapping[str, Any], path: str) -> list[str]:
    lines: list[str] = []
    for key in dict.fromkeys([*made, *today]):
        old, new, here = made.get(key), today.get(key), f"{path}.{key}".removeprefix(".")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, here)
        elif isinstance(old, Mapping) or isinstance(new, Mapping):
            lines.append(f"{here}: in the {'recipe' if old is None else 'result'} alone")
        elif old != new:
            lines.append(f"{here}: {_text(old)}, now {_text(new)}")
    return lines


def _text(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
