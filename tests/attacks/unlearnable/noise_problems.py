"""A small problem for noise on training sets: images of three classes, and a net that learns them in moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.offline import NetTraining

CLASSES = 3


def images(n: int = 30, seed: int = 0) -> Batch:
    """Images [n, 1, 6, 6] from 0 to 1: a bright row tells the class, beside noise."""
    drawn = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(n) % CLASSES
    x = 0.5 * drawn
    x[torch.arange(n), 0, 2 * y] += 0.3
    return Batch(x, y)


def make_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def training(**changes: Any) -> NetTraining:
    settings = {"epochs": 8, "batch_size": 10, "learning_rate": 0.2, **changes}
    return NetTraining(make_net, TrainingSettings(**settings), seed=1)


def knowledge(*fits: Callable[..., Any], seed: int = 0) -> DatasetKnowledge:
    return DatasetKnowledge(CLASSES, images(9, 1), fits or (training(),), torch.Generator().manual_seed(seed))


def sizes(x: Tensor, norm: str) -> Tensor:
    """The norm of each sample's change, [n]."""
    flat = x.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)
