"""Which entries of a recipe are its controls."""

from __future__ import annotations

from taster.experiments import Recipe


def honest_label(recipe: Recipe) -> str | None:
    """The label of the attack that attacks nothing; None without one."""
    return next((entry.label for entry in recipe.attack if entry.name == "none"), None)


def undefended_label(recipe: Recipe) -> str | None:
    """The label of the defence that defends nothing; in a federation the mean counts as such. None without one."""
    alone = [entry for entry in recipe.defence if not entry.plus]
    return next((entry.label for name in ("none", "mean") for entry in alone if entry.name == name), None)
