"""The federated scenario: rounds of clients' updates, some of them the attacker's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from taster.attacks import OnlineAttack, UpdateAttack
from taster.client_gradients import ClientGradients, LocalSGD
from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.learner import Learner
from taster.core.step_record import Phase, StepRecord
from taster.core.view import View
from taster.data import Augment
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Defence, Entry, Federated, Recipe
from taster.experiments.scenarios.builders import (
    check_budget,
    check_guard,
    join_guards,
    make_attack,
    make_guard_parts,
    make_learner,
    make_surrogates,
)
from taster.experiments.scenarios.burn_in import build_model
from taster.experiments.scenarios.context import CellContext, SeedContext
from taster.experiments.scenarios.scenario import ScenarioResult, ScenarioStep
from taster.experiments.user_code import user_code
from taster.federated import (
    AggregationRule,
    ClientPool,
    ModelAwareAggregator,
    Server,
    Simulation,
    dirichlet_partition,
    iid_partition,
    one_sample_partition,
)
from taster.utils.seeds import generator


class FederatedRounds:
    """One cell of a federated recipe.

    Args:
        context: of the cell.
        make_simulation: makes what the rounds run on, of the server, the clients, what they compute and the attack.
    """

    def __init__(self, context: CellContext, make_simulation: Callable[..., Simulation] = Simulation) -> None:
        recipe = context.recipe
        guard, rule = make_guard_and_rule(context, context.defence)
        self.learner: Learner = make_learner(context, context.burnt_in, guard)
        server = Server(self.learner, rule, max_weight_ratio=federated_section(recipe).max_weight_ratio)
        attack = _make_clients_attack(context, context.attack, make_surrogates(context, context.burnt_in))
        self._context = context
        self._attack = attack
        self._simulation = make_simulation(server, make_clients(context), make_gradients(recipe), attack)
        self._dropped_clients = 0

    @property
    def attacks(self) -> bool:
        """Whether anybody attacks."""
        return self._attack.accumulate is not None or self._attack.trigger is not None

    def accuracy(self, samples: Batch, /) -> float:
        """Accuracy of the server's model."""
        return self.learner.view().accuracy(samples.x, samples.y)

    def describe_derivatives(self) -> str | None:
        """How the attack has differentiated so far; None if it does not."""
        derivatives = self._attack.derivatives
        return None if derivatives is None else derivatives.describe()

    def step(self, phase: Phase, _last: StepRecord | None, /) -> ScenarioStep:
        """Runs a round: of clients with samples of their own, or with the trigger's among them."""
        trigger = self._context.batches["trigger"] if phase is Phase.TRIGGER else None
        with user_code(self._context.attack, self._context.defence, self._context.recipe.model):
            result = self._simulation.round(phase, trigger)
        self._dropped_clients += len(result.rejected_clients)
        return ScenarioStep(result.record, self._poisoned(phase), {"clients_dropped": dict(result.rejected_clients)})

    def result(self, _records: list[StepRecord], /) -> ScenarioResult:
        """How many clients were dropped before the screens. There is no cost: that of a round would leave out what
        clients compute."""
        return ScenarioResult({"cost": None, "dropped_clients": self._dropped_clients})

    @classmethod
    def dry_run(cls, context: SeedContext) -> None:
        """Makes every attack and defence once.

        Raises:
            RecipeError: if an attack or defence cannot be made, or the attack is not for the recipe's samples.
            DataError: if the samples cannot be shared out to the clients.
        """
        recipe = context.recipe
        model = build_model(recipe, context.data, context.seed, context.device)
        for defence in recipe.defence:
            guard, _ = make_guard_and_rule(context, defence)
            check_guard(context, model, defence, guard)
        for attack in recipe.attack:
            made = _make_clients_attack(context, attack)
            if isinstance(made, OnlineAttack):
                check_budget(attack, made, context.batches["trigger"])
        make_clients(context)
        make_gradients(recipe)

    def _poisoned(self, phase: Phase) -> int:
        """How many of the round's clients sent, or learned from, something else than an honest one would."""
        acts = {Phase.ACCUMULATE: self._attack.accumulate, Phase.TRIGGER: self._attack.trigger}.get(phase)
        return self._simulation.pool.num_malicious if acts is not None else 0


def make_guard_and_rule(context: SeedContext, defence: Defence) -> tuple[Guard, AggregationRule]:
    """Makes the guard and the aggregation rule of a defence.

    The functions of a defence and of its `plus` return guards, and at most one of them a rule. Without one the rule is
    the recipe's.

    Raises:
        RecipeError: if a function cannot work with its settings or returns neither, or two return a rule.
    """
    recipe, probe = context.recipe, context.batches["probe"]
    parts = make_guard_parts(context, defence, probe)
    guard = join_guards(recipe, defence, [part for part in parts if isinstance(part, Guard)])
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
    with user_code(entry):
        return guard, recipe.factory("aggregator", entry).make({"probe": probe}, entry.settings)


def make_clients(context: SeedContext) -> ClientPool:
    """Shares the stream's samples out to the clients.

    Raises:
        DataError: if there are too few.
    """
    recipe, section = context.recipe, federated_section(context.recipe)
    images, draws = context.images("stream").to(context.device), generator(context.seed, "clients' shares")
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
        seed=context.seed,
        augment=Augment(recipe.stream.crop, recipe.stream.flip),
    )


def make_gradients(recipe: Recipe) -> ClientGradients:
    """Makes what clients compute: a gradient, or the difference after local epochs."""
    section = federated_section(recipe)
    local = LocalSGD(section.local_epochs, section.local_batch_size, section.local_learning_rate)
    return ClientGradients(section.batch_norm, local)


def federated_section(recipe: Recipe) -> Federated:
    """The recipe's `[federated]`, of a recipe that has one."""
    assert recipe.federated is not None
    return recipe.federated


def _make_clients_attack(
    context: SeedContext, attack: Entry, surrogates: Mapping[str, View] | None = None
) -> UpdateAttack | OnlineAttack:
    """An attack on updates, or on the samples of the attacker's clients."""
    made: Any = make_attack(context, _crafting_as_clients(context.recipe, attack), surrogates)
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


def _crafting_as_clients(recipe: Recipe, attack: Entry) -> Entry:
    """The attack, its `batch_norm` set to what the clients normalize with if it has that setting and leaves it open."""
    has = "batch_norm" in recipe.factory("attack", attack).settings.model_fields
    if not has or "batch_norm" in attack.settings:
        return attack
    return Entry.model_validate({**attack.model_dump(), "batch_norm": make_gradients(recipe).batch_norm})
