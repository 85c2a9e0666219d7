"""How a recipe's derivatives are computed, where it leaves that open: by trying the ways on its own model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.core.learner import Learner
from taster.core.types import Tensors
from taster.data import Images, Role, as_batch
from taster.derivatives import Derivatives, DiffMethod, exact_methods, all_methods, fastest, measure, normalized
from taster.experiments.recipes.schema import Recipe
from taster.experiments.running.progress import Progress
from taster.experiments.scenarios.burn_in import build_optimizer


def choose_derivatives(recipe: Recipe, model: nn.Module, roles: Mapping[Role, Images], progress: Progress) -> Recipe:
    """The recipe with its way named: the fastest that agrees, of those it is open to, on a batch of S_val's split.

    A recipe that names a way, or none of whose attacks computes derivatives, comes back as it is.
    """
    asked = any("derivatives" in recipe.factory("attack", attack).needs for attack in recipe.attack)
    if recipe.compute.way is not None or not asked:
        return recipe
    device = next(model.parameters()).device
    images = roles["validation"].to(device)
    count = min(recipe.stream.batch_size, len(images))
    batch, other = (as_batch(images.select(torch.arange(start, start + count) % len(images))) for start in (0, count))
    view = Learner(model, build_optimizer(recipe, model), cross_entropy, precision=recipe.compute.precision).view()

    def loss(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return view.loss(x, y, params=params)

    ways = (all_methods if recipe.compute.derivatives == "fast" else exact_methods)(images=batch.x.dim() == 4)
    direction = normalized(
        Derivatives(DiffMethod("double_backward")).gradient(loss, view.trainable, other), "per_tensor"
    )
    stage = "try ways to differentiate"
    progress.begin(stage, len(ways))
    found = []
    for way in ways:
        found += measure(loss, view.trainable, batch, direction, [way])
        progress.step(stage, 1, str(way))
    return recipe.computed_with(derivatives=str(fastest(found)))
