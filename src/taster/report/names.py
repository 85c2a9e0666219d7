"""What a page calls the user's data and classes."""

from __future__ import annotations

from pathlib import Path

from taster.experiments import Recipe


def data_name(recipe: Recipe) -> str:
    """Of a path on this machine its last part."""
    source = recipe.data.source
    return Path(source).name or source if Path(source).is_absolute() else source


def class_name(recipe: Recipe, place: int) -> str:
    """The user's name of a class in quotation marks, or its number."""
    names = recipe.data.class_names
    return f"“{names[place]}”" if names and 0 <= place < len(names) else f"class {place}"
