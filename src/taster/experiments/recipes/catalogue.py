"""What taster comes with: attacks, defences, scores, models and recipes."""

from __future__ import annotations

from taster.experiments.recipes.files import read_recipe, shipped_recipes
from taster.experiments.recipes.registry import Kind, all_factories

_HEADINGS: dict[str, Kind] = {"attacks": "attack", "defences": "defence", "scores": "score", "models": "model"}


def catalogue() -> dict[str, list[dict[str, str]]]:
    """Attacks, defences, scores, models and recipes: name, one sentence, source."""
    found = {
        heading: [{"name": f.name, "summary": f.summary, "source": f.source} for f in all_factories(kind)]
        for heading, kind in _HEADINGS.items()
    }
    recipes = [read_recipe(name) for name in shipped_recipes()]
    found["recipes"] = [
        {"name": r.name, "summary": " ".join(r.description.split()), "source": r.source} for r in recipes
    ]
    return found


def catalogue_markdown(entries: dict[str, list[dict[str, str]]]) -> str:
    """The catalogue as a page in Markdown, a table for each kind.

    Args:
        entries: of `catalogue`.
    """
    parts = [
        "# Catalogue",
        "What taster comes with, as `taster list --markdown` prints it. `taster show RECIPE` shows every setting of a "
        "recipe.\nIn place of a name, `package.module:function` names a function of yours.",
    ]
    for kind, members in entries.items():
        rows = [f"| `{m['name']}` | {_cell(m['summary'])} | {_cell(m['source'])} |" for m in members]
        parts += [f"## {kind.capitalize()}", "\n".join(["| name | what it is | source |", "|---|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
