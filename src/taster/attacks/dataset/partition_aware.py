"""An attacker who knows how a training set is divided among models that vote: poison where votes are cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.attacks.dataset.flat_samples import draw_rows, poisoned_count, with_inserted
from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.core.batch import Batch, check_tensors
from taster.core.threat import threat
from taster.data.partitions import hash_buckets, hash_partition
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.utils.setting_types import Count, PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings

_NAME = "partition_aware"
_AT_ONCE = 1024
_MOST_DRAWS = 200


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "none",
    "label",
    "before training",
    note="With `target` it is targeted. It knows the defence as well: how the training set is divided.",
)
@validate_settings
def partition_aware(
    *,
    poisoning: DatasetPoisonSettings = DatasetPoisonSettings(),
    partitions: PositiveCount = 50,
    spread: PositiveCount = 1,
    copies: PositiveCount = 3,
    epsilon: PositiveFloat = 0.02,
    target: Count | None = None,
    target_class: Count | None = None,
) -> DatasetAttack:
    """Inserts samples under a wrong label into those parts of a divided training set whose votes are cheapest to turn.

    It is made for Deep Partition Aggregation and finite aggregation by hashes of samples, and says how tight their
    certificates are. What decides the part of a sample is its content alone, so the attacker draws changes of one
    within ±ε until it falls where he wants it. With a target all samples are such copies of the target under the class
    that it is to get; without one they are own samples of one class under another's label, the pair that is closest to
    being confused by the votes.

    For each part he trains a model on it as it is, and with 1, 2, ... `copies` of the poison, and counts by how much
    the lead of the right class in votes shrinks. Of every bucket the number of copies that closes most of it for each
    sample is taken, and buckets by that ratio until the budget is full; what is left of it goes into those chosen, one
    after the other. Costs k d (1 + `copies`) trainings on a part.

    Args:
        poisoning: how many samples are inserted.
        partitions: k, as in the defence.
        spread: d, as in the defence; 1 is Deep Partition Aggregation.
        copies: the most samples that are tried for one part.
        epsilon: the radius of the l∞ ball around the own samples, in the units of the data, in which poison is drawn.
        target: which one of the attacker's own samples is to be classified wrong. None: samples of a class are.
        target_class: the class that the target is to get.

    Raises:
        AttackError: for one of target and target_class without the other. When it poisons: for a share that is no
            sample; a target that there is not, or that is of the target class already; a single class; an epsilon
            with which no draw falls into the part.
        DataError: when it poisons, for fewer samples than parts.

    Source: taster's own; the certificates that it is aimed at are those of Levine and Feizi 2021, and of Wang, Levine
        and Feizi 2022.
    """
    if (target is None) != (target_class is None):
        raise AttackError(f"target: got {target} with target_class {target_class}, wanted both of them or neither")
    budget = DatasetBudget(poisoning.poison_fraction, insert=True, content="any", labels=True)

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        check_tensors(clean, _NAME)
        _check(knowledge, target, target_class)
        count = poisoned_count(budget, len(clean), _NAME)
        divided = hash_partition(clean.x, clean.y, partitions, spread=spread)
        aimed = _aim(clean, divided.members, knowledge, target, target_class)
        box = LpBall("linf", epsilon, knowledge.low, knowledge.high)
        closed = _closed(clean, divided.members, aimed, box, copies, knowledge)
        chosen = _cheapest(closed, divided.bases, count)
        x = _drawn_into(chosen, len(divided.bases), aimed, box, knowledge)
        return Poison(with_inserted(clean, x, torch.full((count,), aimed.wanted)))

    if target is None or target_class is None:
        return DatasetAttack(budget, poison)

    def wanted(knowledge: DatasetKnowledge) -> Batch:
        _check(knowledge, target, target_class)
        own = knowledge.own.select(slice(target, target + 1))
        return Batch(own.x, torch.full_like(own.y, target_class))

    return DatasetAttack(budget, poison, target=wanted)


@dataclass(frozen=True, eq=False)
class _Aim:
    """What is to be classified wrong.

    Attributes:
        samples: the attacker's own that are, x [a, ...] and their labels, all the same; the poison is copies of them.
        wanted: the class that they are to get.
        lead: by how much their own class is ahead of that one in the vote of each model, mean over the samples, from -1
            to 1, float64 [m].
    """

    samples: Batch
    wanted: int
    lead: Tensor


def _check(knowledge: DatasetKnowledge, target: int | None, target_class: int | None) -> None:
    """Raises AttackError for what cannot be aimed at."""
    own, classes = check_tensors(knowledge.own, _NAME), knowledge.classes
    if classes < 2:
        raise AttackError(f"{_NAME}: got {classes} class, wanted at least 2 to have a wrong label")
    if target is None or target_class is None:
        return
    if target >= len(own):
        raise AttackError(f"target: got {target}, wanted 0 to {len(own) - 1}: the attacker's own samples")
    if target_class >= classes or int(own.y[target]) == target_class:
        raise AttackError(
            f"target_class: got {target_class} for a target of class {int(own.y[target])}, wanted another of {classes}"
        )


def _aim(
    clean: Batch, members: Sequence[Tensor], knowledge: DatasetKnowledge, target: int | None, target_class: int | None
) -> _Aim:
    """The target, or of all pairs of classes that of which the first is least ahead in the votes on own samples."""
    own = knowledge.own if target is None else knowledge.own.select(slice(target, target + 1))
    labels = own.y.cpu()
    nobody = torch.full((len(own),), knowledge.classes)  # of a model without samples
    votes = torch.stack([_vote(clean.select(part), own.x, knowledge) if len(part) else nobody for part in members])
    pairs = []
    for label in torch.unique(labels).tolist():
        places = (labels == label).nonzero().flatten()
        for other in range(knowledge.classes) if target_class is None else [target_class]:
            if other != label:
                lead = _lead(votes[:, places], label, other)
                pairs.append((float(lead.sum()), label, other, places, lead))
    _, _, wanted, places, lead = min(pairs, key=lambda pair: pair[:3])
    return _Aim(own.select(places.to(own.y.device)), wanted, lead)


def _vote(samples: Batch, x: Tensor, knowledge: DatasetKnowledge) -> Tensor:
    """What a model that is trained on these samples takes others for, int64 [a]."""
    return knowledge.fit(samples).outputs(x).argmax(1).cpu()


def _lead(votes: Tensor, label: int, other: int) -> Tensor:
    """Of each model by its votes [m, a], mean over the samples, float64 [m]."""
    return ((votes == label).double() - (votes == other).double()).mean(1)


def _closed(
    clean: Batch, members: Sequence[Tensor], aimed: _Aim, box: LpBall, copies: int, knowledge: DatasetKnowledge
) -> Tensor:
    """By how much n samples of poison shrink the lead in the vote of each model, float64 [m, copies]."""
    found = torch.zeros(len(members), copies, dtype=torch.float64)
    label = int(aimed.samples.y[0])
    for model, part in enumerate(members):
        for n in range(1, copies + 1):
            x = _copies(aimed, n, box, knowledge.generator)
            y = torch.full_like(clean.y[:1], aimed.wanted).expand(n)
            samples = with_inserted(clean.select(part), x, y) if len(part) else Batch(x, y)
            votes = _vote(samples, aimed.samples.x, knowledge)
            found[model, n - 1] = aimed.lead[model] - _lead(votes[None], label, aimed.wanted)[0]
    return found


def _cheapest(closed: Tensor, bases: Tensor, count: int) -> Tensor:
    """The bucket of each inserted sample, int64 [count]: as if buckets had no model in common.

    Args:
        closed: by model and number of copies, [m, copies].
        bases: int64 [b, d].
        count: how many are inserted.
    """
    gain = closed[bases].sum(1)
    ratio, n = (gain / torch.arange(1, gain.shape[1] + 1)).max(1)
    order = ratio.argsort(descending=True, stable=True)
    chosen = order.repeat_interleave(n[order] + 1)[:count]
    used = torch.unique_consecutive(chosen)
    return torch.cat([chosen, used.repeat(-(-(count - len(chosen)) // len(used)))[: count - len(chosen)]])


def _drawn_into(chosen: Tensor, buckets: int, aimed: _Aim, box: LpBall, knowledge: DatasetKnowledge) -> Tensor:
    """Samples of poison, [count, ...], each of which falls into its bucket.

    Raises:
        AttackError: if none does in a great many draws.
    """
    left = chosen.tolist()
    found: list[Tensor | None] = [None] * len(left)
    for _ in range(_MOST_DRAWS):
        x = _copies(aimed, _AT_ONCE, box, knowledge.generator)
        for candidate, bucket in zip(x, hash_buckets(x, None, buckets).tolist(), strict=True):
            if bucket in left:
                place = left.index(bucket)
                found[place], left[place] = candidate, -1
        ready = [x for x in found if x is not None]
        if len(ready) == len(found):
            return torch.stack(ready)
    raise AttackError(
        f"{_NAME}: got no sample for bucket {max(left)} of {buckets} in {_AT_ONCE * _MOST_DRAWS} draws within "
        f"±{box.epsilon:g}, wanted one: raise epsilon"
    )


def _copies(aimed: _Aim, count: int, box: LpBall, generator: torch.Generator) -> Tensor:
    """Of what is to be classified wrong, each again only after all others, [count, ...]."""
    every = torch.ones(len(aimed.samples), dtype=torch.bool)
    rows = draw_rows(every, count, generator, again=True)
    return box.random(aimed.samples.x[rows], generator)
