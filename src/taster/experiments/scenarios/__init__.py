"""What happens in one cell of the grid, by scenario. A new scenario of streams is a file here and a line in
`scenario_of`."""

from taster.experiments.recipes.schema import Recipe
from taster.experiments.scenarios.federated import FederatedRounds
from taster.experiments.scenarios.offline import OfflineCell
from taster.experiments.scenarios.online import Online

__all__ = ["FederatedRounds", "OfflineCell", "Online", "scenario_of"]


def scenario_of(recipe: Recipe) -> type[Online] | type[FederatedRounds]:
    """The scenario that a recipe without `[offline]` asks for by its sections."""
    return Online if recipe.federated is None else FederatedRounds
