"""What a cell of a federated recipe works with: server, population, what clients compute, attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from taster.attacks import OnlineAttack, UpdateAttack
from taster.client_gradients import ClientGradients, LocalSGD
from taster.core.guard import Guard
from taster.core.types import Batch
from taster.core.view import View
from taster.data import Augment, Images, ImageSet, Role
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Defence, Entry, Federated, Recipe
from taster.experiments.scenarios.build_guarded import join, learner_behind, make_parts
from taster.experiments.scenarios.build_online import make_attack
from taster.federated import (
    AggregationRule,
    ClientPool,
    ModelAwareAggregator,
    Server,
    dirichlet_partition,
    iid_partition,
    one_sample_partition,
)
from taster.utils.seeds import generator


def make_server(
    recipe: Recipe,
    data: ImageSet,
    burnt_in: dict[str, Any],
    defence: Defence,
    probe: Batch,
    seed: int,
    device: torch.device,
) -> Server:
    """A server whose learner is at the burnt-in state, behind the defence."""
    guard, rule = make_defence(recipe, defence, probe, seed)
    learner = learner_behind(guard, recipe, data, burnt_in, seed, device)
    return Server(learner, rule, max_weight_ratio=federated_section(recipe).max_weight_ratio)


def make_defence(recipe: Recipe, defence: Defence, probe: Batch, seed: int) -> tuple[Guard, AggregationRule]:
    """The guard and the rule of aggregation: a defence's parts are guards, and at most one is a rule; without one it is
    the recipe's.

    Raises:
        RecipeError: when a function returns neither, or two return a rule.
    """
    parts = make_parts(recipe, defence, probe, seed)
    guard = join(recipe, defence, [part for part in parts if isinstance(part, Guard)])
    rules = [part for part in parts if not isinstance(part, Guard)]
    for made in rules:
        if not isinstance(made, ModelAwareAggregator) and not callable(made):
            raise RecipeError(
                f"defence {defence.label}: {defence.name} returned {type(made).__name__}, wanted a Guard or a rule of "
                "aggregation"
            )
    if len(rules) > 1:
        raise RecipeError(f"defence {defence.label}: got {len(rules)} rules of aggregation, wanted one at most")
    if rules:
        return guard, rules[0]
    entry = federated_section(recipe).aggregator
    return guard, recipe.factory("aggregator", entry).make({"probe": probe}, entry.settings)


def make_population(recipe: Recipe, images: Images, seed: int) -> ClientPool:
    """The clients, who share the stream's samples."""
    section, draws = federated_section(recipe), generator(seed, "clients' shares")
    if section.partition == "dirichlet":
        shares = dirichlet_partition(images.y, section.clients, section.alpha, draws)
    else:
        deal = iid_partition if section.partition == "iid" else one_sample_partition
        shares = deal(len(images), section.clients, draws)
    return ClientPool(
        images,
        shares,
        clients_per_round=section.clients_per_round,
        samples_per_round=section.samples,
        malicious_fraction=section.malicious_fraction,
        seed=seed,
        augment=Augment(recipe.stream.crop, recipe.stream.flip),
    )


def make_gradients(recipe: Recipe) -> ClientGradients:
    """What clients compute."""
    section = federated_section(recipe)
    local = LocalSGD(section.local_epochs, section.local_batch_size, section.local_learning_rate)
    return ClientGradients(section.batch_norm, local)


def make_clients_attack(
    recipe: Recipe,
    roles: dict[Role, Images],
    trigger: Batch,
    attack: Entry,
    seed: int,
    surrogates: Mapping[str, View] | None = None,
) -> UpdateAttack | OnlineAttack:
    """The attack, on updates or on the samples of the attacker's clients, with the data that belongs to it.

    Raises:
        RecipeError: when the function returns no campaign.
    """
    made = make_attack(recipe, roles, trigger, attack, seed, surrogates)
    if not isinstance(made, (UpdateAttack, OnlineAttack)):
        raise RecipeError(
            f"attack {attack.label}: {attack.name} returned {type(made).__name__}, wanted an UpdateAttack or an "
            "OnlineAttack"
        )
    if isinstance(made, OnlineAttack) and made.weight_momentum is not None:
        raise RecipeError(
            f"attack {attack.label}: got weight_momentum, which clients of a federation have no hand in; wanted none"
        )
    return made


def dry_run_federation(recipe: Recipe, roles: dict[Role, Images], probe: Batch, trigger: Batch, seed: int) -> None:
    """Makes everything once, so that faults are told before hours are spent."""
    for defence in recipe.defence:
        make_defence(recipe, defence, probe, seed)
    for attack in recipe.attack:
        make_clients_attack(recipe, roles, trigger, attack, seed)
    make_population(recipe, roles["stream"], seed)
    make_gradients(recipe)


def federated_section(recipe: Recipe) -> Federated:
    """The recipe's `[federated]`."""
    assert recipe.federated is not None
    return recipe.federated
