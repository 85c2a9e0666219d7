"""Many victims of one transfer at once: their last layers are trained side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.core.batch import Batch, check_tensors
from taster.core.epochs import Epochs
from taster.core.learner import Learner
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.errors import ModelError
from taster.offline.last_layer import features_of, last_linear
from taster.offline.net_training import NetTraining
from taster.utils.seeds import generator


def train_victims(training: NetTraining, sets: Sequence[Batch]) -> list[View]:
    """What `training(samples)` makes of each of several sets, in one vectorised training.

    Features are computed once for the first set, and of the others for those samples that differ from it: sets that
    several attacks made of one. Then all last layers are one tensor, a step of all victims is one product of batches of
    matrices, and what each becomes is what it would be alone, up to rounding.

    Args:
        training: with mode "transfer" and no augmentation, of a net that ends with its last linear layer.
        sets: x [n, ...] and y int64 [n], all of the same n.

    Returns:
        a view of each victim, in eval mode.

    Raises:
        ModelError: for a training of another kind, no set or sets of several sizes, and a training that comes to no
            finite weights.
    """
    if not sets or any(len(some) != len(sets[0]) for some in sets):
        raise ModelError(f"got sets of {[len(some) for some in sets]} samples, wanted one or more of the same size")
    for some in sets:
        check_tensors(some, "training")
    whole = training.learner()
    if not all(training.learns_from_features(whole, some) for some in sets):
        raise ModelError(
            'got a training that needs the whole net, wanted mode "transfer" without crop and flip, a net that ends '
            "with its last linear layer, and samples in its range"
        )
    layer = last_linear(whole.model)
    features = _features(whole.view(), sets)
    y = torch.stack([some.y for some in sets])
    weights, biases = train_last_layers(layer, features, y, training.settings, training.seed)
    if not bool(weights.isfinite().all() and biases.isfinite().all()):
        raise ModelError("the training came to nothing: weights are not finite; try a smaller learning rate")
    return [_view(training, layer, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def train_last_layers(
    layer: nn.Linear, features: Tensor, y: Tensor, settings: TrainingSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """Trains k copies of a linear layer, each on features of its own, all in the same order.

    Args:
        layer: what they begin with; stays as it is.
        features: [k, n, d].
        y: int64 [k, n].
        settings: of the training.
        seed: of the order, as `NetTraining` has it.

    Returns:
        weights [k, classes, d] and biases [k, classes].
    """
    k, n = y.shape
    weight = layer.weight.detach().repeat(k, 1, 1).requires_grad_()
    bias = torch.zeros(k, 1, layer.out_features).to(weight)
    if layer.bias is not None:
        bias = layer.bias.detach().repeat(k, 1, 1).requires_grad_()
    optimizer = torch.optim.SGD(
        [weight, bias] if bias.requires_grad else [weight],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    order = Epochs(torch.ones(n), settings.batch_size, generator(seed, "offline order 0"), settings.subsample)
    steps = settings.epochs * order.batches
    for done in range(settings.epochs):
        for number, places in enumerate(order):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate_at((done * order.batches + number) / steps)
            at = places.to(features.device)
            outputs = torch.baddbmm(bias, features[:, at], weight.transpose(1, 2))
            losses = cross_entropy(
                outputs.flatten(0, 1),
                y[:, at].flatten(),
                reduction="none",
                label_smoothing=settings.label_smoothing,
            )
            # The mean of each victim's batch, and their sum: none has a part in another's gradient.
            loss = losses.view(k, -1).mean(1).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return weight.detach(), bias.detach()[:, 0]


def _features(view: View, sets: Sequence[Batch]) -> Tensor:
    """[k, n, d]."""
    first = features_of(view, sets[0]).x
    found = [first]
    for some in sets[1:]:
        own, differs = first.clone(), (some.x != sets[0].x).flatten(1).any(1).nonzero().flatten()
        if len(differs):
            own[differs] = features_of(view, some.select(differs)).x
        found.append(own)
    return torch.stack(found)


def _view(training: NetTraining, layer: nn.Linear, weight: Tensor, bias: Tensor) -> View:
    learner: Learner = training.learner()
    own = last_linear(learner.model)
    with torch.no_grad():
        own.weight.copy_(weight)
        if layer.bias is not None:
            own.bias.copy_(bias)
    return learner.view()
