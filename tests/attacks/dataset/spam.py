"""Messages as vectors of tokens, and what an attacker on their filter knows, shared by tests."""

from __future__ import annotations

from typing import Any

import torch

from taster import Batch
from taster.attacks import DatasetKnowledge
from taster.core.fitting import Fit
from taster.models.spam_bayes import SpamBayes
from taster.offline import EstimatorTraining

WORDS = 200


def mail(n: int, seed: int) -> Batch:
    """Ham (0) and half as much spam (1): some words lean to either, most to neither, as frequent as words are."""
    world = torch.Generator().manual_seed(0)
    frequency = 0.3 / torch.arange(1, WORDS + 1).sqrt()
    lean = torch.randint(0, 3, (WORDS,), generator=world)
    factor = torch.tensor([[2.0, 0.1, 1.0], [0.1, 2.0, 1.0]])[:, lean]
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=g) < 1 / 3).long()
    return Batch((torch.rand(n, WORDS, generator=g) < (frequency * factor)[y]).float(), y)


def knowledge(seed: int = 0, fit: Fit | None = None, **changes: Any) -> DatasetKnowledge:
    """Of an attacker with 150 messages of his own."""
    return DatasetKnowledge(
        **{
            "classes": 2,
            "own": mail(150, seed=1000 + seed),
            "fits": (fit or EstimatorTraining(lambda: SpamBayes(), 2),),
            "generator": torch.Generator().manual_seed(seed),
            **changes,
        }
    )
