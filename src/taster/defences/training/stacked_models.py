"""Many trained models, read side by side or one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from taster.core.types import Tensors
from taster.defences.training.training_set import as_input
from taster.errors import ModelError


class BaseModels(Protocol):
    """The trained models of an ensemble."""

    def __len__(self) -> int:
        """How many there are, m."""
        ...

    def scores(self, x: Tensor) -> Tensor:
        """What each gives to each class, [n, m, classes], for samples [n, ...]."""
        ...


class TrainBaseModels(Protocol):
    """Trains a model on each of several parts of a data set.

    Certificates hold if a model depends on its own part, its number and the seed alone, bit for bit.
    """

    def __call__(self, x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> BaseModels:
        """The models, from samples [n, ...], labels [n] and the positions [n_i] of each model's samples."""
        ...


class StackedModels:
    """Trained models of one architecture, their parameters stacked in chunks that are read in one pass.

    Attributes:
        chunks: parameters and buffers [m_i, ...] of each chunk, by name.

    Args:
        template: a model without weights.
        chunks: see above.
        classes: of the output.
    """

    def __init__(self, template: nn.Module, chunks: Sequence[tuple[Tensors, Tensors]], classes: int) -> None:
        self.chunks = chunks
        self._template = template
        self._classes = classes
        self._forward = stacked_forward(template, training=False, shared_input=True)

    def __len__(self) -> int:
        return sum(len(next(iter(params.values()))) for params, _ in self.chunks)

    def scores(self, x: Tensor) -> Tensor:
        """Logits of each model, [n, m, classes], in eval mode and without gradients.

        Args:
            x: samples [n, ...].
        """
        read = as_input(x)
        with torch.no_grad():
            found = [self._forward(params, buffers, read) for params, buffers in self.chunks]
        return torch.cat(found).transpose(0, 1).reshape(len(x), len(self), self._classes)

    def model(self, number: int) -> nn.Module:
        """One of the models by itself, with a copy of its weights, in eval mode.

        Raises:
            ModelError: if there is no such model.
        """
        if not 0 <= number < len(self):
            raise ModelError(f"got model {number}, wanted 0 to {len(self) - 1}")
        for params, buffers in self.chunks:
            size = len(next(iter(params.values())))
            if number < size:
                own = {name: tensor[number].clone() for name, tensor in {**params, **buffers}.items()}
                alone = copy.deepcopy(self._template).to_empty(device=next(iter(own.values())).device)
                with torch.no_grad():
                    for name, tensor in [*alone.named_parameters(), *alone.named_buffers()]:
                        tensor.copy_(own[name])
                return alone.eval()
            number -= size
        raise AssertionError("unreachable")


class ListedModels:
    """Trained models of any kind, read one after the other.

    Args:
        models: modules from samples [n, ...] to logits [n, classes].
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models

    def __len__(self) -> int:
        return len(self.models)

    def scores(self, x: Tensor) -> Tensor:
        """Logits of each model, [n, m, classes], in eval mode and without gradients."""
        read = as_input(x)
        with torch.no_grad():
            return torch.stack([model.eval()(read) for model in self.models], 1)


def stacked_forward(
    template: nn.Module, *, training: bool, shared_input: bool = False
) -> Callable[[Tensors, Tensors, Tensor], Tensor]:
    """Maps parameters and buffers [m, ...] and samples [m, b, ...] (or [b, ...], shared) to outputs [m, b, ...]."""
    module = copy.deepcopy(template).train(training)

    def forward(params: Tensors, buffers: Tensors, x: Tensor) -> Tensor:
        output: Tensor = functional_call(module, (params, buffers), (x,))
        return output

    return vmap(forward, in_dims=(0, 0, None if shared_input else 0), randomness="different")
