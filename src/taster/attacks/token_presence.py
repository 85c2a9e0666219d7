"""What attacks on spam filters share: messages as vectors of the tokens that they hold."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.core.batch import Batch
from taster.errors import AttackError


def check_presence(clean: Batch, knowledge: DatasetKnowledge, spam_class: int) -> None:
    """Checks that samples say which tokens are there, and nothing else.

    Raises:
        AttackError: for samples that are no vectors of two values, and a spam class that there is not.
    """
    for name, x in (("training set", clean.x), ("own samples", knowledge.own.x)):
        if x.dim() != 2 or not bool(((x == knowledge.low) | (x == knowledge.high)).all()):
            raise AttackError(
                f"got a {name} {list(x.shape)} with values between {float(x.min()):g} and {float(x.max()):g}, wanted "
                f"the presence of tokens: [n, d], each {knowledge.low:g} or {knowledge.high:g} "
                '(taster.data.fit_words with features="presence")'
            )
    if spam_class >= knowledge.classes:
        raise AttackError(f"spam_class: got {spam_class}, wanted 0 to {knowledge.classes - 1}")


def messages(tokens: Tensor, clean: Batch, knowledge: DatasetKnowledge) -> Tensor:
    """Samples that hold tokens, as those of the training set are. tokens: bool [m, d]."""
    there = torch.full_like(clean.x[:1], knowledge.high)
    return torch.where(tokens.to(clean.x.device), there, knowledge.low)


def tokens_of(x: Tensor, knowledge: DatasetKnowledge) -> Tensor:
    """Which tokens samples hold, bool [n, d]."""
    return x == knowledge.high
