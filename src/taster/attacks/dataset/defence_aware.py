"""An attacker who knows the defence of a training set: he tries poison behind it, and repeats what gets through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset.flat_samples import other_labels, poisoned_count, with_inserted
from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.core.batch import Batch, check_tensors
from taster.core.fitting import DefendedFit
from taster.core.threat import threat
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.utils.setting_types import Count, NonNegative
from taster.utils.settings import validate_settings

_NAME = "defence_aware"

_LEAST_OWN = 4


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "none",
    "label",
    "before training",
    note="It knows the defence as well; samples are changed a little, so that none is there twice.",
)
@validate_settings
def defence_aware(
    defended: DefendedFit,
    /,
    *,
    poisoning: DatasetPoisonSettings = DatasetPoisonSettings(),
    knows: Literal["defence", "training"] = "defence",
    distinct: list[Annotated[float, Field(gt=0, le=1)]] | None = None,
    rounds: Count = 3,
    epsilon: NonNegative = 0.02,
) -> DatasetAttack:
    """Inserts samples under wrong labels, chosen by trying them behind the defence that they have to pass.

    Half of the attacker's own samples are what poison is made of; the others take the place of the defence's trusted
    samples, and say how good the model is. A trial trains on a poisoned set behind the defence. Tried are, for each
    plan (random wrong labels; the likeliest wrong labels, of the samples closest to the boundary; one class under
    another's label), as many distinct samples as `distinct` says, repeated until the budget is full. What is repeated
    is learned like something true, has neighbours of its own label, and single pieces of it do little. From the worst
    of these on, each round replaces what the defence left out by repetitions of what it kept. The poison of the trial
    with the lowest accuracy is inserted. Costs 3 · len(distinct) + `rounds` trainings behind the defence at most.

    Args:
        defended: trains behind the defence.
        poisoning: how many samples are inserted.
        knows: "defence" tries poison behind it; "training" knows the training without the defence alone, the control.
        distinct: shares of the inserted samples that are distinct. Default: 1, 0.2 and 0.05.
        rounds: see above; each ends where nothing or everything was left out.
        epsilon: the radius of the l∞ ball in which repetitions differ, in the units of the data.

    Raises (when it poisons):
        AttackError: for a share that is no sample, fewer than 4 own samples, and a single class.

    Source: taster's own; that repeated poison passes defences which look for samples apart from others is Koh,
        Steinhardt and Liang 2018 ("Stronger data poisoning attacks break data sanitization defenses").
    """
    budget = DatasetBudget(poisoning.poison_fraction, insert=True, content=LpBall("linf", epsilon), labels=True)

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        check_tensors(clean, _NAME)
        count = poisoned_count(budget, len(clean), _NAME)
        material, known = _halves(knowledge)

        def made(base: Batch, labels: Tensor) -> _Trial:
            box = LpBall("linf", epsilon, knowledge.low, knowledge.high)
            inserted = Batch(box.random(base.x, knowledge.generator), labels)
            return _tried(clean, base, inserted, known, knowledge, defended if knows == "defence" else None)

        trials = []
        for base, labels in _plans(clean, material, knowledge):
            for share in [1.0, 0.2, 0.05] if distinct is None else distinct:
                rows = _repeated(torch.arange(min(len(base), max(1, round(share * count)))), count)
                trials.append(made(base.select(rows), labels[rows]))
        last = min(trials, key=lambda trial: trial.accuracy)
        for _ in range(rounds):
            kept = last.kept.nonzero().flatten().cpu()
            if len(kept) in (0, count):
                break
            rows = _repeated(kept[_order(len(kept), knowledge.generator)], count)
            last = made(last.base.select(rows), last.inserted.y[rows])
            trials.append(last)
        best = min(trials, key=lambda trial: trial.accuracy)
        return Poison(with_inserted(clean, best.inserted.x, best.inserted.y), best.base)

    return DatasetAttack(budget, poison)


@dataclass(frozen=True, eq=False)
class _Trial:
    """What became of poison.

    Attributes:
        base: the own samples that it was made of, under their labels, [m].
        inserted: the poison, [m].
        kept: which of it the defence kept, bool [m].
        accuracy: of the model, as a fraction.
    """

    base: Batch
    inserted: Batch
    kept: Tensor
    accuracy: float


def _tried(
    clean: Batch,
    base: Batch,
    inserted: Batch,
    known: Batch,
    knowledge: DatasetKnowledge,
    defended: DefendedFit | None,
) -> _Trial:
    samples = with_inserted(clean, inserted.x, inserted.y)
    if defended is None:
        model, weights = knowledge.fit(samples), None
    else:
        model, weights = defended(samples, trusted=known)
    right = model.outputs(known.x).argmax(1) == known.y.to(known.x.device)
    kept = torch.ones(len(inserted), dtype=torch.bool) if weights is None else weights[len(clean) :] > 0
    return _Trial(base, inserted, kept, float(right.double().mean()))


def _halves(knowledge: DatasetKnowledge) -> tuple[Batch, Batch]:
    """The attacker's own samples at random: what poison is made of, and what he tries it on.

    Raises:
        AttackError: for too few.
    """
    own = check_tensors(knowledge.own, _NAME)
    if len(own) < _LEAST_OWN:
        raise AttackError(f"{_NAME}: got {len(own)} samples of the attacker's own, wanted at least {_LEAST_OWN}")
    if knowledge.classes < 2:
        raise AttackError(f"{_NAME}: got {knowledge.classes} class, wanted at least 2 to have a wrong label")
    order = _order(len(own), knowledge.generator)
    return own.select(order[: len(own) // 2]), own.select(order[len(own) // 2 :])


def _plans(clean: Batch, material: Batch, knowledge: DatasetKnowledge) -> Iterator[tuple[Batch, Tensor]]:
    """For each plan its samples, the first of which are taken first, and their wrong labels."""
    yield material, other_labels(material.y, knowledge.classes, knowledge.generator)
    scores = knowledge.fit(clean).outputs(material.x).to(material.x.device).double().log_softmax(1)
    own = torch.nn.functional.one_hot(material.y, knowledge.classes).bool()
    likeliest = scores.masked_fill(own, -torch.inf).max(1)
    margin = scores.gather(1, material.y[:, None])[:, 0] - likeliest.values
    order = margin.argsort(stable=True)
    yield material.select(order), likeliest.indices[order]
    pairs = torch.full((knowledge.classes, knowledge.classes), -torch.inf, dtype=scores.dtype)
    for label in torch.unique(material.y).tolist():
        pairs[label] = scores[material.y == label].mean(0).cpu()
    source, target = divmod(int(pairs.fill_diagonal_(-torch.inf).argmax()), knowledge.classes)
    members = (material.y == source).nonzero().flatten()
    members = members[scores[members, target].argsort(descending=True, stable=True)]
    yield material.select(members), torch.full_like(material.y[members], target)


def _repeated(rows: Tensor, count: int) -> Tensor:
    """As many of these rows, each again only after all others."""
    return rows.repeat(-(-count // len(rows)))[:count]


def _order(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).cpu()
