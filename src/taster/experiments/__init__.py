"""Recipes, and the runs made of them."""

from taster.experiments.recipe import Recipe
from taster.experiments.recipe_checks import parse_recipe
from taster.experiments.recipe_files import read_recipe, shipped_recipes
from taster.experiments.run_directory import RunDirectory
from taster.experiments.runner import run_recipe

__all__ = ["Recipe", "RunDirectory", "parse_recipe", "read_recipe", "run_recipe", "shipped_recipes"]
