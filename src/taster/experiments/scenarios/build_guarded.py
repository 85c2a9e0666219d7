"""A recipe's defence, and the learner behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from taster.core.guard import Guard
from taster.core.learner import Learner
from taster.core.snapshots import SnapshotBuffer
from taster.core.types import Batch
from taster.data import ImageSet
from taster.errors import RecipeError
from taster.experiments.recipes.registry import find_factory
from taster.experiments.recipes.schema import Defence, Recipe
from taster.experiments.scenarios.burn_in import build_model, build_optimizer
from taster.experiments.user_code import user_code
from taster.utils.logging import suppress_log_messages
from taster.utils.seeds import generator


def make_parts(recipe: Recipe, defence: Defence, probe: Batch, seed: int, draws: str = "defence") -> list[Any]:
    """What the defence's function returns, and those that follow it (`plus`); all draw from the generator so named."""
    resources = {"probe": probe, "generator": generator(seed, draws)}
    # The size of the probe is set by the recipe; results show the bound, so the warning is not needed.
    with user_code(defence), suppress_log_messages("taster.defences.gates.probe_gate"):
        parts = [recipe.factory("defence", defence).make(resources, defence.settings)]
        for name in defence.plus or []:
            factory = find_factory("defence", name)
            parts.append(factory.make(resources, factory.settings().model_dump(exclude_none=True)))
    return parts


def join(recipe: Recipe, defence: Defence, guards: Sequence[Guard]) -> Guard:
    """The guards as one.

    Raises:
        RecipeError: when it rewinds further than the recipe's history reaches back.
    """
    guard = sum(guards, Guard())
    reach = make_history(recipe, guard).reach
    if guard.max_rewind > reach:
        raise RecipeError(
            f"defence {defence.label}: rewinds up to {guard.max_rewind} steps where the history reaches back {reach}, "
            "wanted a larger history.capacity"
        )
    return guard


def make_history(recipe: Recipe, guard: Guard) -> SnapshotBuffer:
    """The snapshots that the learner keeps: as the recipe says, or, where it says none, what the guard wants."""
    if guard.max_rewind and not recipe.history.capacity:
        return SnapshotBuffer.for_rewind(guard.max_rewind)
    return SnapshotBuffer(recipe.history.capacity, every=recipe.history.every)


def learner_behind(
    guard: Guard, recipe: Recipe, data: ImageSet, burnt_in: dict[str, Any], seed: int, device: torch.device
) -> Learner:
    """A learner at the burnt-in state, behind this guard, as the stream finds it."""
    model = build_model(recipe, data, seed, device)
    optimizer = build_optimizer(recipe, model)
    history = make_history(recipe, guard)
    learner = Learner(model, optimizer, cross_entropy, guard, history=history, precision=recipe.compute.precision)
    learner.load_state_dict({**burnt_in, "guard": guard.state_dict()})
    if recipe.stream.fresh_optimizer:
        optimizer.state.clear()
    if recipe.stream.learning_rate is not None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.stream.learning_rate
    model.train()
    return learner
