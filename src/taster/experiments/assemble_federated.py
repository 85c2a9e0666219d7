"""What a cell of a federated recipe works with: server, population, what clients compute, attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from taster.attacks import Campaign, UpdateCampaign
from taster.calculus import Derivatives
from taster.clientwise import ClientGradients, LocalTraining
from taster.data import Augment, Images, ImageSet, Role, Sampler
from taster.errors import RecipeError
from taster.experiments.assemble import make_history
from taster.experiments.burn_in import build_model, build_optimizer
from taster.experiments.own_code import own_code
from taster.experiments.quiet import quiet
from taster.experiments.recipe import Entry, Federated, Recipe
from taster.federated import Population, Rule, Server, Situated, dirichlet_shares, iid_shares, single_shares
from taster.learner import Learner
from taster.seeds import generator
from taster.stages import Guard
from taster.types import Batch
from taster.view import View


def make_server(
    recipe: Recipe,
    data: ImageSet,
    burnt_in: dict[str, Any],
    defence: Entry,
    probe: Batch,
    seed: int,
    device: torch.device,
) -> Server:
    """A server whose learner is at the burnt-in state, behind the defence."""
    guard, rule = make_defence(recipe, defence, probe, seed)
    model = build_model(recipe, data, seed, device)
    optimizer = build_optimizer(recipe, model)
    learner = Learner(
        model, optimizer, cross_entropy, guard, history=make_history(recipe), precision=recipe.compute.precision
    )
    learner.load_state_dict({**burnt_in, "guard": guard.state_dict()})
    if recipe.stream.fresh_optimizer:
        optimizer.state.clear()
    if recipe.stream.learning_rate is not None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.stream.learning_rate
    return Server(learner, rule, heaviest=section_of(recipe).heaviest)


def make_defence(recipe: Recipe, defence: Entry, probe: Batch, seed: int) -> tuple[Guard, Rule]:
    """The guard and the rule of aggregation: a defence is one of the two, and the other is none, or the recipe's rule.

    Raises:
        RecipeError: when the function returns neither.
    """
    resources = {"probe": probe, "generator": generator(seed, "defence")}
    with own_code(defence), quiet("taster.defences.probe_gate"):
        made = recipe.factory("defence", defence).make(resources, defence.settings)
    if isinstance(made, Guard):
        reach = make_history(recipe).reach
        if made.rewinds > reach:
            raise RecipeError(
                f"defence {defence.label}: rewinds up to {made.rewinds} steps where the history reaches back {reach}, "
                "wanted a larger history.capacity"
            )
        rule = section_of(recipe).aggregator
        return made, recipe.factory("aggregator", rule).make({"probe": probe}, rule.settings)
    if isinstance(made, Situated) or callable(made):
        return Guard(), made
    raise RecipeError(
        f"defence {defence.label}: {defence.name} returned {type(made).__name__}, wanted a Guard or a rule of "
        "aggregation"
    )


def make_population(recipe: Recipe, images: Images, seed: int) -> Population:
    """The clients, who share the stream's samples."""
    section, draws = section_of(recipe), generator(seed, "clients' shares")
    if section.split == "dirichlet":
        shares = dirichlet_shares(images.y, section.clients, section.alpha, draws)
    else:
        deal = iid_shares if section.split == "iid" else single_shares
        shares = deal(len(images), section.clients, draws)
    return Population(
        images,
        shares,
        per_round=section.per_round,
        samples=section.samples,
        malicious=section.malicious,
        seed=seed,
        augment=Augment(recipe.stream.crop, recipe.stream.flip),
    )


def make_gradients(recipe: Recipe) -> ClientGradients:
    """What clients compute."""
    section = section_of(recipe)
    local = LocalTraining(section.local_epochs, section.local_batch_size, section.local_learning_rate)
    return ClientGradients(section.batch_norm, local)


def make_clients_attack(
    recipe: Recipe,
    roles: dict[Role, Images],
    trigger: Batch,
    attack: Entry,
    seed: int,
    surrogates: Mapping[str, View] | None = None,
) -> UpdateCampaign | Campaign:
    """The attack, on updates or on the samples of the attacker's clients, with the data that belongs to it.

    Raises:
        RecipeError: when the function returns no campaign.
    """
    resources = {
        "trigger": trigger,
        "validation": Sampler(roles["validation"].to(trigger.x.device), generator(seed, "validation")),
        "generator": generator(seed, "attack"),
        "derivatives": Derivatives(recipe.compute.way),
        "surrogates": surrogates or {},
        "rehearsal": None,
    }
    with own_code(attack):
        made = recipe.factory("attack", attack).make(resources, attack.settings)
    if not isinstance(made, (UpdateCampaign, Campaign)):
        raise RecipeError(
            f"attack {attack.label}: {attack.name} returned {type(made).__name__}, wanted an UpdateCampaign or a "
            "Campaign"
        )
    if isinstance(made, Campaign) and made.weight_momentum is not None:
        raise RecipeError(
            f"attack {attack.label}: got weight_momentum, which clients of a federation have no hand in; wanted none"
        )
    return made


def rehearse_federation(recipe: Recipe, roles: dict[Role, Images], probe: Batch, trigger: Batch, seed: int) -> None:
    """Makes everything once, so that faults are told before hours are spent."""
    for defence in recipe.defence:
        make_defence(recipe, defence, probe, seed)
    for attack in recipe.attack:
        make_clients_attack(recipe, roles, trigger, attack, seed)
    make_population(recipe, roles["stream"], seed)
    make_gradients(recipe)


def section_of(recipe: Recipe) -> Federated:
    """The recipe's `[federated]`."""
    assert recipe.federated is not None
    return recipe.federated
