"""What taster comes with: attacks, defences, scores, models and recipes."""

from __future__ import annotations

from taster.experiments.recipes.files import read_recipe, shipped_recipes
from taster.experiments.recipes.registry import Kind, all_factories

_HEADINGS: dict[str, Kind] = {"attacks": "attack", "defences": "defence", "scores": "score", "models": "model"}


def catalogue() -> dict[str, list[dict[str, str]]]:
    """Attacks, defences, scores, models and recipes: name, one sentence, source; of attacks and defences also what they
    serve for."""
    found = {
        heading: [
            {"name": f.name, "summary": f.summary, "source": f.source}
            | ({"for": ", ".join(f.serves)} if f.serves else {})
            for f in all_factories(kind)
        ]
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
        parts.append(f"## {kind.capitalize()}")
        for served, some in by_setting(members).items():
            parts += [f"### For {served}"] if served else []
            rows = [f"| `{m['name']}` | {_cell(m['summary'])} | {_cell(m['source'])} |" for m in some]
            parts.append("\n".join(["| name | what it is | source |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def by_setting(members: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Members of the catalogue by what they serve for: "streams", "streams, training sets" and so on; "" for all of a
    kind that is for nothing in particular."""
    groups: dict[str, list[dict[str, str]]] = {}
    for member in members:
        groups.setdefault(member.get("for", ""), []).append(member)
    return groups


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
