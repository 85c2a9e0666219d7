"""The generator of Yang et al. 2017: a fully connected autoencoder, trained before the attack."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from taster.utils.seeds import drawing_from

_BATCH_SIZE = 50
_LEARNING_RATE = 1e-3


class Autoencoder(nn.Module):
    """Fully connected layers with ReLU; a sigmoid scales the output to the range of the data."""

    def __init__(self, shape: Sequence[int], hidden: Sequence[int], low: float, high: float) -> None:
        super().__init__()
        width = math.prod(shape)
        widths = [width, *hidden, width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        layers[-1] = nn.Sigmoid()
        self.layers: nn.Sequential = nn.Sequential(*layers)
        self._low, self._high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructs samples [n, ...]."""
        out: Tensor = self._low + (self._high - self._low) * self.layers(x.flatten(1))
        return out.reshape(x.shape)


def pretrain_autoencoder(
    x: Tensor, hidden: Sequence[int], epochs: int, generator: torch.Generator, low: float, high: float
) -> Autoencoder:
    """Trains an autoencoder to reconstruct samples, by Adam on the squared error.

    Args:
        x: samples, [n, ...].
        hidden: widths of the hidden layers.
        epochs: number of passes over x.
        generator: seeds initial weights and order. Torch's global generators are not advanced.
        low, high: range of the data.
    """
    with drawing_from(generator, x.device):
        model = Autoencoder(x.shape[1:], hidden, low, high).to(x)
        optimizer = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(x)), _BATCH_SIZE):
                optimizer.zero_grad()
                batch = x[part.to(x.device)]
                torch.autograd.backward(mse_loss(model(batch), batch))
                optimizer.step()
    optimizer.zero_grad()
    return model


class GeneratorTrainer:
    """Trains a copy of a generator on gradients at its output.

    Args:
        model: the pre-trained generator, which is copied.
        learning_rate: of Adam.
    """

    def __init__(self, model: Autoencoder, learning_rate: float) -> None:
        self._model = copy.deepcopy(model)
        self._optimizer = torch.optim.Adam(self._model.parameters(), learning_rate, maximize=True)

    def step(self, x: Tensor, upstream: Tensor) -> Tensor:
        """One step that raises ⟨G(x), v⟩, v of the shape of the samples x. Returns G(x) after it."""
        self._optimizer.zero_grad()
        torch.autograd.backward((self._model(x) * upstream).sum())
        self._optimizer.step()
        with torch.no_grad():
            made: Tensor = self._model(x)
        return made
