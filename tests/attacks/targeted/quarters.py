"""Three classes of tiny images that a tiny net learns from scratch in a moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from taster.attacks import DatasetKnowledge
from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.offline import NetTraining
from taster.utils.seeds import generator


def quarters(count: int, seed: int) -> Batch:
    """Images 6x6 of three classes, each with another bright quarter."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = 0.35 + 0.1 * torch.randn(count, 1, 6, 6, generator=draws)
    for label, (row, column) in enumerate([(0, 0), (0, 3), (3, 0)]):
        x[y == label, :, row : row + 3, column : column + 3] += 0.3
    return Batch(x.clamp(0, 1), y)


def make_net(seed: int = 0) -> nn.Module:
    """A convolution, batch norm and two linear layers."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, 3))


CLEAN, OWN = quarters(60, 0), quarters(30, 1)
SCRATCH = NetTraining(make_net, TrainingSettings(epochs=6, batch_size=20, learning_rate=0.1), seed=5)


def knowledge(seed: int = 0, *fits: Any) -> DatasetKnowledge:
    """Of an attacker who knows these trainings, by default the one from scratch."""
    return DatasetKnowledge(3, OWN, fits or (SCRATCH,), generator(seed, "attack"))
