"""Recipes, the scenarios that their cells run in, and the running of them."""

from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.recipes.files import read_recipe, shipped_recipes
from taster.experiments.recipes.schema import PublishedResult, Recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.runner import run_recipe

__all__ = ["PublishedResult", "Recipe", "RunDirectory", "parse_recipe", "read_recipe", "run_recipe", "shipped_recipes"]
