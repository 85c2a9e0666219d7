"""The focused attack on a spam filter: one message that is expected is to be taken for spam."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset.flat_samples import with_inserted
from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.token_presence import check_presence, messages, tokens_of
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.errors import AttackError
from taster.utils.setting_types import Count
from taster.utils.settings import validate_settings


@threat(
    "targeted",
    "availability",
    "grey box",
    "universal",
    "none",
    "before training",
    note=(
        "Of the target some words are known, and all messages hold the same; that one message is lost "
        "is the paper's availability."
    ),
)
@validate_settings
def focused_attack(
    *,
    poisoning: DatasetPoisonSettings = DatasetPoisonSettings(poison_fraction=0.01),
    known_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    target: Count = 0,
    disguise: bool = True,
    spam_class: Count = 1,
) -> DatasetAttack:
    """Inserts messages with words of one message of ham that is not sent yet, under the label of spam, so that it will
    be taken for spam.

    The attacker knows some of its words, such as those of a competing offer. All messages hold the same of them. In the
    paper each word is known by a coin of its own; here their number is fixed, as a short message would often have none.

    Args:
        poisoning: see `taster.attacks.DatasetPoisonSettings`.
        known_share: of the target's words that the attacker knows, rounded up.
        target: which one of the attacker's own messages that are ham. It is in nobody's training set.
        disguise: whether each message also holds the words of a random spam of the attacker's own, in place of the
            header that the paper's have from spam; but for those that any other ham of his holds, which would spoil
            other messages too.
        spam_class: the label of spam.

    Raises (when called):
        AttackError: for samples that are not token presence, a spam class that there is not, no such ham, ham without a
            word, and a disguise without any spam.

    Source: Nelson et al. 2008 ("Exploiting machine learning to subvert your spam filter"), Section 3.3.
    """
    budget = DatasetBudget(poisoning.poison_fraction, insert=True, content="any", labels=True)

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        check_presence(clean, knowledge, spam_class)
        place = _place_of_target(knowledge, target, spam_class)
        count = budget.max_poisoned(len(clean))
        if not count:
            return Poison(clean)
        held = _known_words(knowledge, place, known_share).expand(count, -1)
        if disguise:
            held = held | _spam_words(knowledge, place, spam_class, count)
        x = messages(held, clean, knowledge)
        y = torch.full_like(clean.y[:1], spam_class).expand(count)
        return Poison(with_inserted(clean, x, y))

    def blocked(knowledge: DatasetKnowledge) -> Batch:
        place = _place_of_target(knowledge, target, spam_class)
        found = knowledge.own.select(slice(place, place + 1))
        return Batch(found.x, torch.full_like(found.y, spam_class))

    return DatasetAttack(budget, poison, target=blocked)


def _place_of_target(knowledge: DatasetKnowledge, target: int, spam_class: int) -> int:
    """Raises:
    AttackError: if there is no such ham, or it has no word.
    """
    ham = (knowledge.own.y != spam_class).nonzero().flatten()
    if target >= len(ham):
        raise AttackError(f"target: got {target}, wanted 0 to {len(ham) - 1}: the attacker's own messages that are ham")
    place = int(ham[target])
    if not bool(tokens_of(knowledge.own.x[place], knowledge).any()):
        raise AttackError(f"target: got {target}, a message without a word that the filter knows; wanted another")
    return place


def _known_words(knowledge: DatasetKnowledge, place: int, share: float) -> Tensor:
    """Those of the target that the attacker knows, bool [d]."""
    generator = knowledge.generator
    words = tokens_of(knowledge.own.x[place], knowledge).nonzero().flatten()
    order = torch.randperm(len(words), generator=generator, device=generator.device).to(words.device)
    held = torch.zeros_like(knowledge.own.x[place], dtype=torch.bool)
    held[words[order[: math.ceil(share * len(words) - 1e-9)]]] = True
    return held


def _spam_words(knowledge: DatasetKnowledge, place: int, spam_class: int, count: int) -> Tensor:
    """Words of random spam that no ham but the target holds, bool [count, d].

    Raises:
        AttackError: if the attacker has no spam.
    """
    own, generator = knowledge.own, knowledge.generator
    ham = own.y != spam_class
    ham[place] = False
    spam = (own.y == spam_class).nonzero().flatten()
    if not len(spam):
        raise AttackError("disguise: got no spam among the attacker's own samples, wanted some, or disguise = false")
    drawn = spam[torch.randint(len(spam), (count,), generator=generator, device=generator.device).to(spam.device)]
    kept_out = tokens_of(own.x[ham], knowledge).any(0)
    return tokens_of(own.x[drawn], knowledge) & ~kept_out
