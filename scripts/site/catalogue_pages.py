"""Pages of the catalogue: one for each attack, defence, score and model, from its own docstring."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from taster.core.threat import countermeasure_of, threat_of
from taster.experiments.recipes.files import read_recipe, shipped_recipes
from taster.experiments.recipes.registry import Factory, Kind, all_factories

_FOLDERS: dict[Kind, str] = {"attack": "attacks", "defence": "defences", "score": "scores", "model": "models"}


def catalogue_pages(root: Path) -> Iterator[tuple[str, str]]:
    """Path on the site and content of each page."""
    used = _recipes_by_name()
    for kind, folder in _FOLDERS.items():
        for factory in all_factories(kind):
            yield f"catalogue/{folder}/{factory.name}.md", _page(root, factory, used.get((kind, factory.name), []))


@cache
def catalogued_functions() -> frozenset[Callable[..., Any]]:
    """The functions that have a page."""
    return frozenset(factory.function for kind in _FOLDERS for factory in all_factories(kind))


def linked_catalogue(markdown: str) -> str:
    """The catalogue with each name a link to its page.

    Args:
        markdown: as `taster list --markdown` prints it.
    """
    folder, lines = "", []
    for line in markdown.splitlines():
        if line.startswith("## "):
            folder = line[3:].lower()
        name = re.match(r"\| `(\w+)` \|", line)
        if name and folder in _FOLDERS.values():
            line = f"| [`{name[1]}`](catalogue/{folder}/{name[1]}.md) |{line[name.end() :]}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _page(root: Path, factory: Factory, recipes: list[str]) -> str:
    function = factory.function
    parts = [f"# {factory.name}", *_said(factory)]
    parts.append(f"::: {function.__module__}.{function.__name__}\n    options:\n      show_root_heading: false")
    if recipes:
        kept = [name for name in recipes if (root / "results" / name).is_dir()]
        listed = ", ".join(f"`{name}`" + (" (results kept)" if name in kept else "") for name in recipes)
        parts += ["## Recipes", f"In {listed}."]
    return "\n\n".join(parts) + "\n"


def _said(factory: Factory) -> list[str]:
    """What an attack or defence says of itself."""
    threat, answer = threat_of(factory.function), countermeasure_of(factory.function)
    if threat is not None:
        cells = (
            f"{threat.specificity} {threat.violation}",
            threat.knowledge,
            threat.universality,
            threat.family,
            threat.timing,
        )
        table = (
            "| harm | knows | universality | family | timing |\n|---|---|---|---|---|\n| " + " | ".join(cells) + " |"
        )
        return [table, *([threat.note] if threat.note else [])]
    if answer is not None:
        table = f"| kind | answers |\n|---|---|\n| {answer.kind} | {', '.join(answer.against)} |"
        return [table, *([answer.note] if answer.note else [])]
    return []


def _recipes_by_name() -> dict[tuple[Kind, str], list[str]]:
    """The recipes that name each function."""
    found: dict[tuple[Kind, str], list[str]] = {}
    for name in shipped_recipes():
        recipe = read_recipe(name)
        entries: list[tuple[Kind, str]] = [("model", recipe.model.name)]
        entries += [("attack", entry.name) for entry in recipe.attack]
        entries += [("defence", entry.name) for entry in recipe.defence]
        entries += [("score", entry.name) for entry in recipe.score]
        for entry in dict.fromkeys(entries):
            found.setdefault(entry, []).append(name)
    return found
