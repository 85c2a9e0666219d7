"""Malicious noise: a share of samples is arbitrary, and shows what another concept would."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.errors import AttackError
from taster.utils.setting_types import Count
from taster.utils.settings import validate_settings


def malicious_noise_limit(error: float) -> float:
    """The share of malicious samples from which on no algorithm learns every concept of a class to an error:

        β = ε / (1 + ε)

    With that share two concepts that differ on a part of probability ε look the same. It holds for any class of
    concepts but those in which there are no two such; and for hypotheses that are not drawn at random.

    Args:
        error: ε, over 0 and at most 1.

    Raises:
        AttackError: for an error out of range.

    Source: Kearns and Li 1993 ("Learning in the presence of malicious errors"); with random hypotheses the limit is
        2ε / (1 + 2ε), Cesa-Bianchi et al. 1999.
    """
    if not 0 < error <= 1:
        raise AttackError(f"error: got {error}, wanted over 0 and at most 1")
    return error / (1 + error)


def indistinguishable_error(share: float) -> float:
    """The probability ε = β / (1 − β) of the part in which two concepts can look the same, at a share β of malicious
    samples: the inverse of `malicious_noise_limit`, at most 1.

    Raises:
        AttackError: for a share out of range.
    """
    if not 0 < share <= 1:
        raise AttackError(f"share: got {share}, wanted over 0 and at most 1")
    return 1.0 if share >= 0.5 else share / (1 - share)


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "p-tampering",
    "before training",
    note=(
        "p-tampering is malicious noise with right labels; as labels are wrong here, it could be "
        "counted as label poisoning."
    ),
)
@validate_settings
def malicious_noise(
    *,
    poisoning: DatasetPoisonSettings = DatasetPoisonSettings(),
    strategy: Literal["pairing", "random"] = "pairing",
    source_class: Count | None = None,
    target_class: Count | None = None,
) -> DatasetAttack:
    """Replaces samples at random places by such as another concept would show, so that it cannot be told from the true
    one.

    "pairing": the boundary of the other concept is moved into a class a, so that a part of probability ε = β / (1 − β)
    is given to a class b. Of n samples (1 − β) ε n = β n are honest and lie in that part; the attacker shows as many
    from it, own samples of a under the label b. In there both labels are as frequent. Which samples lie there is told
    by a model that is trained as the victim's: those of a with the highest score of b against that of a. In the proof
    the part is one point, in a world that is made for the attack; here samples are real and differ from each other, so
    that a learner which remembers each of them is led astray at random.

    "random": own samples under a random wrong label, the control.

    Args:
        poisoning: see `taster.attacks.DatasetPoisonSettings`. β is `poison_fraction`.
        strategy: what the poison is.
        source_class: a. None: with b, the pair for which the samples of a have the highest mean probability of b.
        target_class: b, likewise.

    Raises:
        AttackError: for one of the classes without the other, or the same twice. When called: for a class that the
            attacker has no samples of, or that there is not.

    Source: Kearns and Li 1993 ("Learning in the presence of malicious errors"), the method of induced distributions.
    """
    if (source_class is None) != (target_class is None) or (source_class is not None and source_class == target_class):
        raise AttackError(f"got source_class {source_class} and target_class {target_class}, wanted two or neither")
    budget = DatasetBudget(poisoning.poison_fraction, content="any", labels=True)
    part = indistinguishable_error(poisoning.poison_fraction)

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        places = budget.draw(len(clean), knowledge.generator)
        if not len(places):
            return Poison(clean)
        own = knowledge.own
        if strategy == "random":
            shown = _drawn(torch.arange(len(own)), len(places), knowledge.generator)
            shift = 1 + _integers(knowledge.classes - 1, len(places), knowledge.generator)
            y = (own.y[shown] + shift.to(own.y)) % knowledge.classes
        else:
            fitting, b = _disputed(clean, knowledge, part, source_class, target_class)
            shown = _drawn(fitting, len(places), knowledge.generator)
            y = torch.full_like(own.y[shown], b)
        found = Batch(clean.x.clone(), clean.y.clone())
        found.x[places], found.y[places] = own.x[shown].to(found.x), y.to(found.y)
        return Poison(found)

    return DatasetAttack(budget, poison)


def _disputed(
    clean: Batch, knowledge: DatasetKnowledge, part: float, source: int | None, target: int | None
) -> tuple[Tensor, int]:
    """Places of the own samples that the other concept gives to another class, and that class.

    Raises:
        AttackError: for classes that there are not, or have no own samples.
    """
    own, classes = knowledge.own, knowledge.classes
    scores = knowledge.fit(clean).outputs(own.x).cpu()
    labels = own.y.cpu()
    if source is None or target is None:
        shares = scores.softmax(1)
        seen = sorted(set(labels.tolist()))
        pairs = [(float(shares[labels == a, b].mean()), a, b) for a in seen for b in range(classes) if a != b]
        _, source, target = max(pairs)
    if max(source, target) >= classes or not bool((labels == source).any()):
        raise AttackError(
            f"got source_class {source} and target_class {target}, wanted two of {classes} classes, the source one "
            f"that the attacker has samples of: {sorted(set(labels.tolist()))}"
        )
    members = (labels == source).nonzero().flatten()
    order = (scores[members, target] - scores[members, source]).argsort(descending=True)
    return members[order[: max(1, round(part * len(own)))]], target


def _drawn(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """As many of these places, in a random order; each again only after all others."""
    rounds = [places[_order(len(places), generator)] for _ in range(-(-count // len(places)))]
    return torch.cat(rounds)[:count]


def _order(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).cpu()


def _integers(below: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(below, (count,), generator=generator, device=generator.device).cpu()
