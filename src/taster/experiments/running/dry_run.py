"""Everything of a run made once, so that faults show before any training."""

from __future__ import annotations

from taster.experiments.recipes.schema import Recipe
from taster.experiments.running.progress import DecodingProgress, Progress
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios import OfflineCell, scenario_of
from taster.experiments.scenarios.builders import make_score
from taster.experiments.scenarios.burn_in import build_model, surrogate_recipe
from taster.experiments.scenarios.context import SeedContext
from taster.experiments.scenarios.weights import load_weights


def dry_run(recipe: Recipe, progress: Progress) -> SeedContext:
    """Loads the data, and makes model, attacks, defences, scores and surrogates of the first seed.

    Returns:
        the seed's context.

    Raises:
        RecipeError, DataError, ModelError, AttackError, CheckpointError: for faults of the recipe.
    """
    context = seed_context(recipe, recipe.seeds[0], DecodingProgress(progress))
    if recipe.offline is not None:
        OfflineCell.dry_run(context)
        if not recipe.offline.burns_in:
            return context
    model = build_model(recipe, context.data, context.seed, context.device)
    if recipe.burn_in.checkpoint is not None:
        for path in (*recipe.burn_in.earlier.values(), recipe.burn_in.checkpoint):
            load_weights(model, path)
    if recipe.offline is None:
        scenario_of(recipe).dry_run(context)
    for entry in recipe.score:
        make_score(context, entry)
    for section in recipe.surrogate:
        build_model(surrogate_recipe(recipe, section), context.data, context.seed, context.device)
    return context
