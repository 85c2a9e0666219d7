"""What taster comes with."""

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
