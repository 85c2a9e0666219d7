"""The trainings of an offline recipe: the victim's, and the one that the attacker supposes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from taster.errors import RecipeError
from taster.experiments.recipes.schema import Offline, Recipe
from taster.experiments.scenarios.burn_in import build_model, call_model_function
from taster.experiments.scenarios.context import BurntIn, SeedContext
from taster.offline import EstimatorTraining, NetTraining
from taster.utils.seeds import derived_seed

Training = NetTraining | EstimatorTraining


def offline_section(recipe: Recipe) -> Offline:
    """The section `[offline]` of a recipe that has one."""
    assert recipe.offline is not None
    return recipe.offline


def victim_training(context: SeedContext, burnt_in: BurntIn | None) -> Training:
    """The training of the recipe, from the seed's weights or from those that were burnt in."""
    section = offline_section(context.recipe)
    data = context.data
    made = call_model_function(context.recipe, data.shape, data.classes, data.vocabulary)
    if is_estimator(made):
        if section.burns_in:
            raise RecipeError(
                f'offline.mode: got {section.mode!r} with the estimator {context.recipe.model.name}, wanted "scratch"'
            )
        if data.vocabulary is not None:
            raise RecipeError(
                f'data.table.words: got "tokens" with the estimator {context.recipe.model.name}, to which ids would be '
                'numbers; wanted "presence", "counts" or "tfidf"'
            )
        return EstimatorTraining(
            lambda: call_model_function(context.recipe, data.shape, data.classes, None),
            data.classes,
            context.seed,
        )
    return _net_training(context, burnt_in)


def attacker_fits(context: SeedContext, burnt_in: BurntIn | None) -> list[Training]:
    """The training as the attacker makes it: with the victim's model, or with those that he supposes; with other
    seeds."""
    section = offline_section(context.recipe)
    own = replace(context, seed=context.seed + section.attacker_seed)
    if not section.attacker_models:
        return [victim_training(own, burnt_in)]
    scratch = section.model_copy(update={"mode": "scratch", "attacker_models": []})
    recipes = [
        context.recipe.model_copy(update={"model": model, "offline": scratch}) for model in section.attacker_models
    ]
    return [victim_training(replace(own, recipe=recipe), None) for recipe in recipes]


def is_estimator(made: Any) -> bool:
    """Whether a model is a scikit-learn estimator and not a net."""
    return not isinstance(made, nn.Module) and callable(getattr(made, "fit", None))


def _net_training(context: SeedContext, burnt_in: BurntIn | None) -> NetTraining:
    recipe, section = context.recipe, offline_section(context.recipe)

    def make_model(seed: int) -> nn.Module:
        drawn = derived_seed(context.seed, f"weights {seed}") if seed else context.seed
        model = build_model(recipe, context.data, drawn, context.device)
        if burnt_in is not None:
            model.load_state_dict(burnt_in["model"])
        return model

    # Rows that scales were not fitted on may lie outside of the range.
    limits = context.data.value_range if len(context.data.shape) > 1 else None
    return NetTraining(make_model, section.training(), section.mode, context.seed, recipe.compute.precision, limits)
