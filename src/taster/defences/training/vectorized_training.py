"""Trains many small models at once: stacked parameters, one forward and one backward pass for all of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.nn.functional import cross_entropy

from taster.core.types import Tensors
from taster.defences.training.base_models import (
    MakeModel,
    check_first_pass,
    check_stackable,
    make_base_model,
)
from taster.defences.training.sgd import SampleOrder, SGDSettings
from taster.defences.training.stacked_models import StackedModels, stacked_forward
from taster.defences.training.training_set import as_input
from taster.errors import ModelError
from taster.utils.seeds import derived_seed, seeded
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@validate_settings
def vectorized_training(
    make_model: MakeModel, *, sgd: SGDSettings = SGDSettings(), models_at_once: PositiveCount = 64
) -> VectorizedTraining:
    """Training of all base models of an ensemble in one vectorized call, `models_at_once` side by side.

    A model's weights depend, bit for bit, on its own samples, its number and the seed, and on nothing that is in the
    other partitions: all models of a call make steps of one shape, padded with weight 0 where samples are missing; a
    model without any left makes no step. That is what certificates rest on. On another machine, with another number of
    threads or other `models_at_once`, the last bits may differ, of training with and without poison alike.

    Args:
        make_model: makes one base model, [n, ...] to logits [n, classes]. No batch norm, and nothing else that writes
            into buffers; group norm and dropout are fine.
        sgd: how each is trained.
        models_at_once: how many are trained side by side. Memory grows with it, by three times the parameters and the
            activations of `batch_size` samples for each.

    Raises (when called):
        ModelError: for a model that cannot be trained so, or that does not fit the samples.
    """
    return VectorizedTraining(make_model, sgd, models_at_once)


@dataclass(frozen=True)
class VectorizedTraining:
    """See `vectorized_training`."""

    make_model: MakeModel
    sgd: SGDSettings
    models_at_once: int

    def __call__(self, x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> StackedModels:
        """Trains a model on each of several parts of a data set.

        Args:
            x: samples [n, ...].
            y: labels [n], int64.
            members: for each model the positions of its samples, int64 [n_i].
            classes: number of classes.
            seed: of weights, orders and dropout.

        Raises:
            ModelError: see `vectorized_training`.
        """
        numbers = range(len(members))
        first = make_base_model(self.make_model, seed, 0, x.device)
        check_stackable(first)
        check_first_pass(first, x, classes, buffers_may_change=False)
        template = copy.deepcopy(first).to("meta")
        chunks = []
        for start in range(0, len(members), self.models_at_once):
            own = numbers[start : start + self.models_at_once]
            models = [make_base_model(self.make_model, seed, i, x.device) for i in own]
            _check_own_weights(models)
            params, buffers = stack_module_state(models)
            del models
            chunk = _Chunk(template, params, buffers, self.sgd)
            orders = [SampleOrder(seed, i, len(members[i])) for i in own]
            chunk.train(x, y, [members[i] for i in own], orders, derived_seed(seed, f"dropout of models from {start}"))
            chunks.append(({name: p.detach() for name, p in params.items()}, buffers))
        return StackedModels(template, chunks, classes)


class _Chunk:
    """Models that are trained side by side.

    Args:
        template: a model without weights.
        params, buffers: of m models, stacked [m, ...].
        sgd: how they are trained.
    """

    def __init__(self, template: nn.Module, params: Tensors, buffers: Tensors, sgd: SGDSettings) -> None:
        self._fixed = {name: p for name, p in params.items() if not p.requires_grad}
        self._params = {name: p for name, p in params.items() if p.requires_grad}
        self._buffers = buffers
        self._momentum = {name: torch.zeros_like(p) for name, p in self._params.items()}
        self._forward = stacked_forward(template, training=True)
        self._sgd = sgd

    def train(
        self, x: Tensor, y: Tensor, members: Sequence[Tensor], orders: Sequence[SampleOrder], dropout_seed: int
    ) -> None:
        """All epochs, in place."""
        for epoch in range(self._sgd.epochs):
            rate = self._sgd.learning_rate_of(epoch)
            shuffled = [part[order.draw().to(part.device)] for part, order in zip(members, orders, strict=True)]
            for number, (index, there) in enumerate(_padded_batches(shuffled, self._sgd.batch_size)):
                # Seeded anew, so that no mask depends on how many steps other models have made.
                with seeded(derived_seed(dropout_seed, f"{epoch}/{number}"), x.device):
                    self._step(as_input(x[index]), y[index], there, rate)

    def _step(self, x: Tensor, y: Tensor, there: Tensor, rate: float) -> None:
        """One step of SGD of each model on its own batch [m, b, ...]; of those that have samples in it."""
        counts = there.sum(1)
        with torch.enable_grad():
            output = self._forward({**self._fixed, **self._params}, self._buffers, x)
            losses = cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none").view(there.shape)
            # Of sums over models the gradient of each is its own.
            total = (losses * (there.to(losses.dtype) / counts.clamp_min(1)[:, None])).sum()
            gradients = torch.autograd.grad(total, list(self._params.values()), allow_unused=True)
        active = counts > 0
        with torch.no_grad():
            for (name, p), gradient in zip(self._params.items(), gradients, strict=True):
                # A parameter that no output depends on has no gradient, and torch.optim.SGD leaves it alone.
                if gradient is not None:
                    self._descend(p, self._momentum[name], gradient, active, rate)

    def _descend(self, p: Tensor, momentum: Tensor, gradient: Tensor, active: Tensor, rate: float) -> None:
        def of_each(value: float, otherwise: float) -> Tensor:
            chosen = p.new_full((len(p),), value).where(active, otherwise)  # in the precision of p
            return chosen.view(-1, *[1] * (p.dim() - 1))

        if self._sgd.weight_decay:
            gradient = gradient.add(p, alpha=self._sgd.weight_decay)
        gradient = gradient.where(of_each(1.0, 0.0).bool(), 0.0)  # also of one that is NaN on padding
        if self._sgd.momentum:
            momentum.mul_(of_each(self._sgd.momentum, 1.0)).add_(gradient)
            change = gradient.add(momentum, alpha=self._sgd.momentum) if self._sgd.nesterov else momentum
        else:
            change = gradient
        p.addcmul_(of_each(rate, 0.0), change, value=-1)


def _padded_batches(shuffled: Sequence[Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of several models: positions [m, batch_size], and whether there is such a sample.

    Missing ones are padded with the model's own first sample, so that whatever they give is its own as well; models
    without samples, which make no step, with the first of the data set.
    """
    counts = torch.tensor([len(part) for part in shuffled])
    steps = -(-int(counts.max()) // batch_size)
    first = torch.stack([part[0] if len(part) else part.new_zeros(()) for part in shuffled])
    index = first[:, None].repeat(1, steps * batch_size)
    for row, part in zip(index, shuffled, strict=True):
        row[: len(part)] = part
    there = torch.arange(steps * batch_size)[None] < counts[:, None]
    return zip(torch.split(index, batch_size, 1), torch.split(there.to(index.device), batch_size, 1), strict=True)


def _check_own_weights(models: Sequence[nn.Module]) -> None:
    """Refuses a function that returns one model again and again."""
    if len({id(model) for model in models}) < len(models):
        raise ModelError("make_model: got the same model twice, wanted a new one for each call: copy.deepcopy(model)")
