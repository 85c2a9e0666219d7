"""What a cell works with, built from the recipe: learner, attack, schedule, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from taster.attacks import OnlineAttack, GuardSimulator, Schedule, after_steps, at_accuracy_floor, at_loss_amplification
from taster.core.guard import Guard
from taster.core.learner import Learner
from taster.core.types import Batch
from taster.core.view import View
from taster.data import Images, ImageSet, Role, Sampler
from taster.derivatives import Derivatives
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Defence, Entry, Recipe, ScheduleSection
from taster.experiments.scenarios.build_guarded import join, learner_behind, make_parts
from taster.experiments.scenarios.burn_in import build_model, build_optimizer, surrogate_recipe
from taster.experiments.user_code import user_code
from taster.scores.base import Score
from taster.utils.seeds import generator


def make_learner(
    recipe: Recipe,
    data: ImageSet,
    burnt_in: dict[str, Any],
    defence: Defence,
    probe: Batch,
    seed: int,
    device: torch.device,
    draws: str = "defence",
) -> Learner:
    """A learner at the burnt-in state, behind the defence's guard, which draws from the generator of this name."""
    return learner_behind(make_guard(recipe, defence, probe, seed, draws), recipe, data, burnt_in, seed, device)


def make_guard(recipe: Recipe, defence: Defence, probe: Batch, seed: int, draws: str = "defence") -> Guard:
    """The defence, with the trusted data that belongs to it.

    Raises:
        RecipeError: when the function returns no Guard, or one that rewinds further than the history reaches back.
    """
    parts = make_parts(recipe, defence, probe, seed, draws)
    for made in parts:
        if not isinstance(made, Guard):
            raise RecipeError(f"defence {defence.label}: {defence.name} returned {type(made).__name__}, wanted a Guard")
    return join(recipe, defence, parts)


def make_surrogates(
    recipe: Recipe, data: ImageSet, burnt_in: dict[str, Any], seed: int, device: torch.device
) -> dict[str, View]:
    """The attacker's own models."""
    found = {}
    for section in recipe.surrogate:
        model = build_model(surrogate_recipe(recipe, section), data, seed, device)
        model.load_state_dict(burnt_in["surrogates"][section.label])
        optimizer, precision = build_optimizer(recipe, model), recipe.compute.precision
        found[section.label] = Learner(model, optimizer, cross_entropy, precision=precision).view()
    return found


def make_score(recipe: Recipe, entry: Entry, probe: Batch) -> Score:
    """The score, with the clean samples that belong to it."""
    with user_code(entry):
        made = recipe.factory("score", entry).make({"probe": probe}, entry.settings)
    if not callable(made):
        raise RecipeError(f"score {entry.label}: {entry.name} returned {type(made).__name__}, wanted a Score")
    return made  # type: ignore[no-any-return]


def make_campaign(
    recipe: Recipe,
    roles: dict[Role, Images],
    trigger: Batch,
    attack: Entry,
    seed: int,
    surrogates: Mapping[str, View] | None = None,
    rehearsal: GuardSimulator | None = None,
) -> OnlineAttack:
    """The attack, with the data that belongs to it; without what only a cell has, it is made but cannot be called.

    Raises:
        RecipeError: when the function returns no OnlineAttack.
    """
    campaign = make_attack(recipe, roles, trigger, attack, seed, surrogates, rehearsal)
    if not isinstance(campaign, OnlineAttack):
        raise RecipeError(
            f"attack {attack.label}: {attack.name} returned {type(campaign).__name__}, wanted an OnlineAttack"
        )
    return campaign


def make_attack(
    recipe: Recipe,
    roles: dict[Role, Images],
    trigger: Batch,
    attack: Entry,
    seed: int,
    surrogates: Mapping[str, View] | None = None,
    rehearsal: GuardSimulator | None = None,
) -> Any:
    """What the attack's function returns."""
    resources = {
        "trigger": trigger,
        "draw_validation": Sampler(roles["validation"].to(trigger.x.device), generator(seed, "validation")),
        "generator": generator(seed, "attack"),
        "derivatives": Derivatives(recipe.compute.way),
        "surrogates": surrogates or {},
        "simulator": rehearsal,
        "learning_rate": stream_rate(recipe),
    }
    with user_code(attack):
        return recipe.factory("attack", attack).make(resources, attack.settings)


def stream_rate(recipe: Recipe) -> float:
    """The learning rate of the stream."""
    return recipe.stream.learning_rate or recipe.burn_in.learning_rate


def make_schedule(section: ScheduleSection, *, harmless: bool = False) -> Schedule:
    """The recipe's conditions; the harm done is named before the count. Where nobody attacks, only the count ends it:
    that a defence by itself costs accuracy is a result."""
    stops = {}
    if section.accuracy_floor is not None and not harmless:
        stops["accuracy_floor"] = at_accuracy_floor(section.accuracy_floor, margin=section.margin)
    if section.loss_amplification is not None and not harmless:
        stops["loss_amplification"] = at_loss_amplification(section.loss_amplification)
    stops["steps"] = after_steps(section.steps)
    return Schedule(stops, section.dormant)
