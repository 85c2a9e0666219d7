"""Trains the base models of an ensemble one after the other, by `torch.optim.SGD`: for any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.defences.training.base_models import MakeModel, check_first_pass, make_base_model
from taster.defences.training.sgd import SampleOrder, SGDSettings
from taster.defences.training.stacked_models import ListedModels
from taster.defences.training.training_set import as_input
from taster.errors import ModelError
from taster.utils.seeds import derived_seed, seeded
from taster.utils.settings import validate_settings


@validate_settings
def looped_training(make_model: MakeModel, *, sgd: SGDSettings = SGDSettings()) -> LoopedTraining:
    """Training of the base models of an ensemble in a plain loop: what `vectorized_training` computes at once, from the
    same seeds and in the same order of samples. Dropout draws other masks.

    Args:
        make_model: makes one base model, [n, ...] to logits [n, classes]; batch norm is fine.
        sgd: how each is trained.

    Raises (when called):
        ModelError: for a model that does not fit the samples, or fails on a batch.
    """
    return LoopedTraining(make_model, sgd)


@dataclass(frozen=True)
class LoopedTraining:
    """See `looped_training`."""

    make_model: MakeModel
    sgd: SGDSettings

    def __call__(self, x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> ListedModels:
        """Trains a model on each of several parts of a data set; arguments as in `VectorizedTraining`."""
        first = make_base_model(self.make_model, seed, 0, x.device)
        check_first_pass(first, x, classes, buffers_may_change=True)
        models: list[nn.Module] = []
        for number, part in enumerate(members):
            model = make_base_model(self.make_model, seed, number, x.device)
            if any(model is other for other in models):
                raise ModelError(
                    "make_model: got the same model twice, wanted a new one for each call: copy.deepcopy(model)"
                )
            order = SampleOrder(seed, number, len(part))
            with seeded(derived_seed(seed, f"dropout of base model {number}"), x.device), torch.enable_grad():
                try:
                    self._fit(model.train(), x, y, part, order)
                except ValueError as error:  # as of batch norm on a single sample
                    raise ModelError(f"got a model that fails on a batch of base model {number}: {error}") from error
            models.append(model.eval())
        return ListedModels(models)

    def _fit(self, model: nn.Module, x: Tensor, y: Tensor, part: Tensor, order: SampleOrder) -> None:
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=self.sgd.learning_rate,
            momentum=self.sgd.momentum,
            nesterov=self.sgd.nesterov,
            weight_decay=self.sgd.weight_decay,
        )
        for epoch in range(self.sgd.epochs):
            optimizer.param_groups[0]["lr"] = self.sgd.learning_rate_of(epoch)
            shuffled = part[order.draw().to(part.device)]
            for index in torch.split(shuffled, self.sgd.batch_size) if len(part) else ():
                optimizer.zero_grad()
                cross_entropy(model(as_input(x[index])), y[index]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
