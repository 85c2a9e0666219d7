"""The dictionary attack on a spam filter: messages full of words, so that all of them look like spam."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset.flat_samples import with_inserted
from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.token_presence import check_presence, messages, tokens_of
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.utils.setting_types import Count
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "black box",
    "universal",
    "none",
    "before training",
    note=(
        "All messages hold the same words under the true label of what they are; of the filter its vocabulary is known."
    ),
)
@validate_settings
def dictionary_attack(
    *,
    poisoning: DatasetPoisonSettings = DatasetPoisonSettings(poison_fraction=0.01),
    words: Literal["vocabulary", "frequent"] = "vocabulary",
    word_share: Annotated[float, Field(gt=0, le=1)] = 1.0,
    spam_class: Count = 1,
) -> DatasetAttack:
    """Inserts messages that hold a dictionary, under the label of spam, so that ham is taken for spam.

    The filter learns from the spam that its user marks as such, or that it is trained on unseen. With "vocabulary" and
    a share of 1 this is the optimal attack of the paper; with a smaller share its dictionary of a language, which lacks
    some of the words in use; with "frequent" its Usenet attack. All messages hold the same words, as in the paper.

    Args:
        poisoning: see `taster.attacks.DatasetPoisonSettings`. The paper counts the messages of the attack among those
            of the training set; here their share is of the clean ones.
        words: "vocabulary" holds a random share of the filter's words, "frequent" those that most of the attacker's own
            samples hold, of whatever class.
        word_share: of the filter's vocabulary. With "frequent" no words but those of the own samples are known.
        spam_class: the label of spam.

    Raises (when called):
        AttackError: for samples that are not token presence, and a spam class that there is not.

    Source: Nelson et al. 2008 ("Exploiting machine learning to subvert your spam filter"), Section 3.2.
    """
    budget = DatasetBudget(poisoning.poison_fraction, insert=True, content="any", labels=True)

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        check_presence(clean, knowledge, spam_class)
        count = budget.max_poisoned(len(clean))
        if not count:
            return Poison(clean)
        held = _dictionary(knowledge, words == "frequent", word_share)
        x = messages(held.expand(count, -1), clean, knowledge)
        y = torch.full_like(clean.y[:1], spam_class).expand(count)
        return Poison(with_inserted(clean, x, y))

    return DatasetAttack(budget, poison)


def _dictionary(knowledge: DatasetKnowledge, frequent: bool, share: float) -> Tensor:
    """Which words it has, bool [d]."""
    found = tokens_of(knowledge.own.x, knowledge).sum(0)
    size = max(1, round(share * len(found)))
    if frequent:
        order = found.argsort(descending=True, stable=True)[:size]
        order = order[found[order] > 0]
    else:
        generator = knowledge.generator
        order = torch.randperm(len(found), generator=generator, device=generator.device)[:size].to(found.device)
    held = torch.zeros_like(found, dtype=torch.bool)
    held[order] = True
    return held
