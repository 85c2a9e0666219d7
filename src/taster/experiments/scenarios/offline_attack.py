"""The attack of an offline cell: it is crafted once for all defences that it is tried against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from taster.attacks import DatasetAttack, DatasetKnowledge, OnlineAttack, PoisonedDataset
from taster.attacks.online_attack import poison_mask
from taster.core.batch import Batch
from taster.core.fitting import Classifier, DefendedFit
from taster.core.step_record import Phase
from taster.core.threat import threat_of
from taster.core.view import View
from taster.errors import AttackError, RecipeError
from taster.experiments.recipes.registry import find_factory
from taster.experiments.recipes.schema import Defence, Entry
from taster.experiments.scenarios.builders import make_attack
from taster.experiments.scenarios.context import BurntIn, SeedContext
from taster.experiments.scenarios.offline_defence import check_fits_training, make_offline_defence
from taster.experiments.scenarios.offline_training import attacker_fits, offline_section
from taster.experiments.user_code import user_code
from taster.offline import NetTraining
from taster.utils.seeds import derived_seed, generator


@dataclass(frozen=True, eq=False)
class CraftedPoison:
    """An attack and what it made of a training set.

    Attributes:
        attack: that was made.
        dataset: the set that is trained on.
        target: samples that a class is wanted for; None without any.
        seconds: that crafting took.
    """

    attack: DatasetAttack | OnlineAttack
    dataset: PoisonedDataset
    target: Batch | None
    seconds: float


def make_offline_attack(
    context: SeedContext, entry: Entry, defended: DefendedFit | None = None
) -> DatasetAttack | OnlineAttack:
    """Makes an attack on training sets, or one on batches, which serves as well.

    Args:
        context: of the seed.
        entry: the attack.
        defended: see `make_attack`.

    Raises:
        RecipeError: if its function cannot work with its settings, or returns something else.
    """
    made = make_attack(context, entry, defended=defended)
    if isinstance(made, OnlineAttack) and made.accumulate is None and made.trigger is not None:
        raise RecipeError(
            f"attack {entry.label}: {entry.name} poisons the trigger step of a stream alone, wanted an attack on data "
            "sets or on every batch (greedy = true, where it has that setting)"
        )
    if not isinstance(made, DatasetAttack | OnlineAttack):
        raise RecipeError(
            f"attack {entry.label}: {entry.name} returned {type(made).__name__}, wanted a DatasetAttack or an "
            "OnlineAttack"
        )
    return made


def craft(context: SeedContext, entry: Entry, burnt_in: BurntIn | None, defence: Defence) -> CraftedPoison:
    """The attack's poison for a seed, the same for every defence unless the attack asks for it; the last one is
    remembered."""
    knows = "defended" in context.recipe.factory("attack", entry).needs
    key = (context.recipe.to_toml(), entry.label, context.seed, defence.label if knows else None)
    defended = _defended(context, burnt_in, defence) if knows else None
    return _remembered(_crafted, key, lambda: _craft(context, entry, burnt_in, defended))


_crafted: dict[tuple[str, str, int, str | None], CraftedPoison] = {}

_trained: dict[tuple[str, int], View] = {}
"""Models that an attacker has trained on the clean set, by recipe and seed: all attacks that look at one share it."""

_K = TypeVar("_K")
_V = TypeVar("_V")


def _remembered(known: dict[_K, _V], key: _K, make: Callable[[], _V]) -> _V:
    if key not in known:
        known.clear()  # one at a time: a data set can be large
        known[key] = make()
    return known[key]


def _defended(context: SeedContext, burnt_in: BurntIn | None, defence: Defence) -> DefendedFit:
    """The training as the attacker makes it, behind a defence of the victim's kind that he makes as well."""
    training = attacker_fits(context, burnt_in)[0]

    def train(samples: Batch, /, *, trusted: Batch, seed: int = 0) -> tuple[Classifier, Tensor | None]:
        with user_code(defence, context.recipe.model):
            own = make_offline_defence(context, defence, trusted, f"rehearsal {seed}")
            check_fits_training(defence, own, training)
            seeds = context.seed + offline_section(context.recipe).attacker_seed + seed
            found = own.train(training, samples, trusted, classes=context.data.classes, seed=seeds)
        return found.model, found.weights

    return train


def _craft(context: SeedContext, entry: Entry, burnt_in: BurntIn | None, defended: DefendedFit | None) -> CraftedPoison:
    attack, clean, target = make_offline_attack(context, entry, defended), context.training_set, None
    began = time.perf_counter()
    # What an attack draws beside its generator, the weights of a net say, is the same whatever ran before it.
    torch.manual_seed(derived_seed(context.seed, "offline attack"))
    with user_code(entry, context.recipe.model):
        if isinstance(attack, DatasetAttack):
            knowledge = _knowledge(context, burnt_in)
            dataset = attack(clean, knowledge)
            target = (
                None if attack.target is None else _checked_target(entry, attack.target(knowledge), clean, knowledge)
            )
        else:
            attack = attack.within(*context.data.value_range)
            blind = attack.accumulate is None or _is_blind(entry)
            view = _view(context, burnt_in, None if blind else clean)
            # Whole where it can be, so that the share is that of the set and not of each batch, rounded down.
            size = len(clean) if blind or attack.backdoor is not None else offline_section(context.recipe).batch_size
            dataset = _poison_in_batches(attack, clean, view, size)
    return CraftedPoison(attack, dataset, target, time.perf_counter() - began)


def _knowledge(context: SeedContext, burnt_in: BurntIn | None) -> DatasetKnowledge:
    low, high = context.data.value_range
    return DatasetKnowledge(
        classes=context.data.classes,
        own=context.batches["validation"],
        fits=tuple(attacker_fits(context, burnt_in)),
        generator=generator(context.seed, "attack"),
        low=low,
        high=high,
    )


def _checked_target(entry: Entry, target: Batch, clean: Batch, knowledge: DatasetKnowledge) -> Batch:
    """Raises AttackError for targets of another shape, or wanted in a class that there is not."""
    if target.x.shape[1:] != clean.x.shape[1:] or target.y.shape != target.x.shape[:1]:
        raise AttackError(
            f"attack {entry.label}: got targets {list(target.x.shape)} with {list(target.y.shape)} classes, wanted "
            f"[k, {', '.join(map(str, clean.x.shape[1:]))}] and [k]"
        )
    if int(target.y.min()) < 0 or int(target.y.max()) >= knowledge.classes:
        raise AttackError(
            f"attack {entry.label}: got targets wanted in class {int(target.y.max())}, wanted 0 to "
            f"{knowledge.classes - 1}"
        )
    return target


def _poison_in_batches(attack: OnlineAttack, clean: Batch, view: View, size: int) -> PoisonedDataset:
    """Poisons a set as if it came batch after batch while the model stays as it is."""
    places = torch.split(torch.arange(len(clean), device=clean.x.device), size)
    parts = [attack.poison(clean.select(some), view, Phase.ACCUMULATE) for some in places]
    found = Batch(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    return PoisonedDataset(found, poison_mask(found, clean).cpu())


def _is_blind(entry: Entry) -> bool:
    """Whether an attack says of itself that it does not look at the model."""
    said = threat_of(find_factory("attack", entry.name).function)
    return said is not None and said.knowledge == "black box"


def _view(context: SeedContext, burnt_in: BurntIn | None, clean: Batch | None) -> View:
    """Of the model that the attacker knows.

    Where training goes on from a trained model it is that one. From scratch it is one that the attacker trains on the
    clean set, as adversarial samples for a model with random weights say nothing of a trained one; an estimator's place
    is taken by a linear net. Without the clean set, for attacks that do not look at it, it is not trained.
    """
    fit = attacker_fits(context, burnt_in)[0]
    if not isinstance(fit, NetTraining):
        fit = NetTraining(lambda seed: _linear_net(context, seed), offline_section(context.recipe).training())
    if clean is not None and fit.mode == "scratch":
        return _remembered(_trained, (context.recipe.to_toml(), context.seed), lambda: fit(clean))
    learner = fit.learner()
    learner.model.eval()
    return learner.view()


def _linear_net(context: SeedContext, seed: int) -> nn.Module:
    torch.manual_seed(derived_seed(context.seed, f"linear net {seed}"))
    values = int(torch.tensor(context.data.shape).prod())
    return nn.Sequential(nn.Flatten(), nn.Linear(values, context.data.classes)).to(context.device)
