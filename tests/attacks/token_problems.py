"""Texts whose class some words tell, and learners of them, shared by tests."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.models import token_net

WORDS, LENGTH = 30, 6


def texts(n: int, seed: int = 0) -> Batch:
    """Words 2 to 8 are in texts of class 0, 9 to 15 in those of class 1, the others in both; some texts are short."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=g)
    telling = 2 + 7 * y[:, None] + torch.randint(0, 7, (n, LENGTH), generator=g)
    x = torch.where(
        torch.rand(n, LENGTH, generator=g) < 0.5, telling, torch.randint(16, WORDS, (n, LENGTH), generator=g)
    )
    x[: n // 3, -2:] = 0
    return Batch(x, y)


def draw_texts(n: int) -> Batch:
    return texts(n, seed=1000)


def text_learner(dtype: torch.dtype = torch.float32, steps: int = 30) -> Learner:
    """Trained on texts."""
    torch.manual_seed(0)
    model = token_net((LENGTH,), 2, WORDS, width=5, hidden=6).to(dtype)
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.5), cross_entropy)
    for i in range(steps):
        learner.step(texts(40, seed=i))
    return learner
