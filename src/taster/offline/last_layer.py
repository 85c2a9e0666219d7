"""A frozen net cut before its last linear layer, so that features are computed once for a whole training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from taster.core.batch import Batch
from taster.core.view import View
from taster.errors import ModelError

_TRIED = 8
"""Samples on which it is tried whether a net ends with its last linear layer."""


def last_linear(model: nn.Module) -> nn.Linear:
    """The linear layer that comes last among a model's modules.

    Raises:
        ModelError: if there is none.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError('got a model without a linear layer, wanted one whose last layer is, for mode "transfer"')
    return linear[-1]


def freeze_features(model: nn.Module) -> None:
    """Leaves the last linear layer alone to be trained, and the rest in eval mode.

    Raises:
        ModelError: if the model has no linear layer.
    """
    last = last_linear(model)
    model.eval().requires_grad_(False)
    last.requires_grad_(True)


def ends_with(layer: nn.Linear, model: nn.Module, view: View, x: Tensor) -> bool:
    """Whether a net's output is that of a layer for its features, so that training can go on from the features alone.

    Args:
        layer: the last linear one.
        model: the net.
        view: of the net.
        x: samples [n, ...], of which a few are tried.
    """
    name = next(name for name, module in model.named_modules() if module is layer)
    if not name:
        return False  # the layer is the whole model
    with torch.no_grad():
        found, outputs = view.features(x[:_TRIED], name)
    return torch.equal(found, outputs)


def features_of(view: View, samples: Batch, chunk: int = 500) -> Batch:
    """Samples with features in the place of their content, x [n, d] and y [n], without a graph.

    Args:
        view: of the net.
        samples: x [n, ...] and y [n].
        chunk: samples that go through the net at a time.
    """

    def parts() -> Iterator[Tensor]:
        for i in range(0, len(samples), chunk):
            yield view.features(samples.x[i : i + chunk])[0]

    with torch.no_grad():
        return Batch(torch.cat(list(parts())), samples.y)
