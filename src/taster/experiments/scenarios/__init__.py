"""What happens in one cell of the grid, by scenario. A new scenario is a file here and a line in `scenario_of`."""

from taster.experiments.recipes.schema import Recipe
from taster.experiments.scenarios.federated import FederatedRounds
from taster.experiments.scenarios.online import Online

__all__ = ["FederatedRounds", "Online", "scenario_of"]


def scenario_of(recipe: Recipe) -> type[Online] | type[FederatedRounds]:
    """The scenario that a recipe asks for by its sections."""
    return Online if recipe.federated is None else FederatedRounds
