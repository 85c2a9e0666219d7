"""What defences read off a trained classifier: outputs, losses and features, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from taster.core.batch import Batch
from taster.core.fitting import Classifier
from taster.core.view import View
from taster.defences.dataset_defence import TrainingRun
from taster.defences.training.training_set import as_input
from taster.errors import DefenceError, SettingError

Space = Literal["auto", "features", "input"]
"""Where samples are compared: "features" of a model that was fitted to the training set, which must be a net; "input";
"auto" takes features where there are some."""

Rows = Callable[[Tensor], Tensor]
"""From samples [n, ...] to one row each, [n, d], without a graph."""

_CHUNK = 1000


def class_outputs(classifier: Classifier, x: Tensor, classes: int) -> Tensor:
    """A classifier's scores, floating point [n, classes], on the samples' device.

    Args:
        classifier: a trained one.
        x: samples [n, ...].
        classes: how many it tells apart.

    Raises:
        DefenceError: for scores of another shape.
    """
    with torch.no_grad():
        found = torch.cat([classifier.outputs(part).to(x.device) for part in torch.split(x, _CHUNK)])
    if found.shape != (len(x), classes):
        raise DefenceError(f"got outputs {list(found.shape)} of the classifier, wanted {[len(x), classes]}")
    return found if found.is_floating_point() else found.float()


def sample_losses(classifier: Classifier, samples: Batch, classes: int) -> Tensor:
    """The loss of each sample, [n]; infinite where it is no number.

    Of a net it is the loss that the net was trained with; of any other classifier the cross-entropy: of its outputs
    themselves where each row is a distribution (at least 0, with the sum 1), else of their softmax.

    Args:
        classifier: a trained one.
        samples: x [n, ...] and y int64 [n].
        classes: how many there are.

    Raises:
        DefenceError: for outputs of another shape than [n, classes].
    """
    if isinstance(classifier, View):
        parts = [samples.select(slice(i, i + _CHUNK)) for i in range(0, len(samples), _CHUNK)]
        with torch.no_grad():
            losses = torch.cat([classifier.sample_losses(part) for part in parts])
    else:
        found = class_outputs(classifier, samples.x, classes)
        logs = found.clamp_min(torch.finfo(found.dtype).tiny).log() if _distributions(found) else log_softmax(found, 1)
        losses = -logs.gather(1, samples.y[:, None])[:, 0]
    return losses.nan_to_num(nan=torch.inf, posinf=torch.inf)


def fitted_rows(run: TrainingRun, space: Space, layer: str | None, name: str) -> Rows:
    """The rows by which samples are compared; fits a model to all samples unless these are the inputs.

    Args:
        run: what a defence works with.
        space: where.
        layer: of the net; None takes the input of its last linear layer.
        name: of the defence, for messages.

    Raises:
        DefenceError: if features are wanted, and the fitted classifier is no net.
        ModelError: for a layer that the net does not have.
    """
    if space == "input":
        return input_rows
    classifier = run.fit(run.samples, seed=run.seed)
    if isinstance(classifier, View):
        return feature_rows(classifier, layer)
    if space == "features" or layer is not None:
        raise no_features(classifier, name)
    return input_rows


def no_features(classifier: Classifier, name: str) -> DefenceError:
    """The error for a classifier that is no net."""
    return DefenceError(
        f"{name}: got a classifier without features, a {type(classifier).__name__}, wanted a net (a taster.View)"
    )


def check_space(space: Space, layer: str | None, name: str) -> None:
    """Refuses a layer where no features are used.

    Raises:
        SettingError: if there is one.
    """
    if space == "input" and layer is not None:
        raise SettingError(f'{name}: got layer {layer!r} with space "input", wanted "features" or "auto", or no layer')


def input_rows(x: Tensor) -> Tensor:
    """The samples themselves, one row each."""
    return as_input(x).flatten(1)


def feature_rows(view: View, layer: str | None) -> Rows:
    """The features of a net.

    Args:
        view: of the net.
        layer: whose output is used; None takes the input of the last linear layer.
    """

    def rows(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([view.features(part, layer)[0] for part in torch.split(x, _CHUNK)])

    return rows


def _distributions(outputs: Tensor) -> bool:
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-4).all())
