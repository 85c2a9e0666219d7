"""The Adversarial Robustness Toolbox's attacks on training sets and screens of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.attacks.poisoning import (
    BullseyePolytopeAttackPyTorch,
    FeatureCollisionAttack,
    GradientMatchingAttack,
    PoisoningAttackSVM,
)
from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.scikitlearn import ScikitlearnSVC
from art.utils import segment_by_class
from sklearn.svm import SVC
from torch import Tensor, nn

from taster import Batch
from toolkits.timing import Way


def classifier(net: nn.Module) -> Any:
    """The net, for images of 8 by 8 and ten classes."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    return PyTorchClassifier(
        model=net,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def feature_collision(
    net: nn.Module, bases: Tensor, target: Tensor, layer: str, rate: float, similarity: float, steps: int
) -> Way:
    """Poisons made of bases, one after the other."""

    def ready() -> Any:
        attack = FeatureCollisionAttack(
            classifier(net),
            target.numpy().copy(),
            layer,
            learning_rate=rate,
            max_iter=steps,
            similarity_coeff=similarity,
            verbose=False,
        )
        return lambda: attack.poison(bases.numpy().copy())[0]

    return ready


def bullseye(
    net: nn.Module,
    bases: Tensor,
    target: Tensor,
    wanted: int,
    layer: str,
    epsilon: float,
    steps: int,
    *,
    end_to_end: bool,
) -> Way:
    """Poisons made of bases together, under the label that they have."""

    def ready() -> Any:
        attack = BullseyePolytopeAttackPyTorch(
            classifier(net),
            target.numpy().copy(),
            layer,
            learning_rate=0.01,
            max_iter=steps,
            epsilon=epsilon,
            endtoend=end_to_end,
            verbose=False,
        )
        labels = np.eye(10, dtype=np.float32)[np.full(len(bases), wanted)]
        return lambda: attack.poison(bases.numpy().copy(), labels)[0]

    return ready


def gradient_matching(net: nn.Module, bases: Tensor, target: Tensor, wanted: int, epsilon: float, steps: int) -> Way:
    """Poisons made of bases together, all of what it is given, from one start and with its own schedule of rates."""

    def ready() -> Any:
        attack = GradientMatchingAttack(
            classifier(net),
            percent_poison=1.0,
            epsilon=epsilon,
            max_trials=1,
            max_epochs=steps,
            clip_values=(0.0, 1.0),
            verbose=0,
        )
        label, labels = np.array([wanted]), np.full(len(bases), wanted)
        return lambda: attack.poison(target.numpy().copy(), label, bases.numpy().copy(), labels)[0]

    return ready


def svm_poisoning(train: Batch, validation: Batch, start: Tensor, steps: int) -> Way:
    """One point for a linear machine, C = 1."""

    def one_hot(y: Tensor) -> Any:
        return np.eye(2)[y.numpy()]

    def flat(x: Tensor) -> Any:
        return x.flatten(1).double().numpy().copy()

    def ready() -> Any:
        # With probabilities, for which it asks at the end, and which change nothing of the machine itself.
        machine = ScikitlearnSVC(model=SVC(kernel="linear", C=1.0, probability=True), clip_values=(0, 1))
        machine.fit(flat(train.x), one_hot(train.y))
        attack = PoisoningAttackSVM(
            machine,
            step=0.1,
            eps=1.0,
            x_train=flat(train.x),
            y_train=one_hot(train.y),
            x_val=flat(validation.x),
            y_val=one_hot(validation.y),
            max_iter=steps,
            verbose=False,
        )
        label = np.eye(2)[[1]]
        return lambda: attack.poison(flat(start), label)[0]

    return ready


def spectral(net: nn.Module, x: Tensor, y: Tensor, layer: str | None) -> Way:
    """Scores of all samples, class by class as its detector has them, from the layer that it takes (the last) or
    from the one that is named."""

    def ready() -> Any:
        estimator = classifier(net)
        place = layer if layer is not None else len(estimator.layer_names) - 1

        def work() -> Any:
            features = estimator.get_activations(x.numpy(), place, 128)
            labels = y.numpy()
            scores = np.zeros(len(labels))
            by_class = segment_by_class(features, labels, 10)
            for places, own in zip(segment_by_class(np.arange(len(labels)), labels, 10), by_class, strict=True):
                scores[places] = SpectralSignatureDefense.spectral_signature_scores(own)[:, 0]
            return scores

        return work

    return ready


def activation(net: nn.Module, x: Tensor, y: Tensor) -> Way:
    """1 for samples that are suspected, by the silhouette of a label's two clusters, as taster judges them; 0 for
    others."""

    def ready() -> Any:
        defence = ActivationDefence(classifier(net), x.numpy(), y.numpy())

        def work() -> Any:
            _, clean = defence.detect_poison(
                nb_clusters=2, nb_dims=10, reduce="PCA", cluster_analysis="silhouette-scores"
            )
            return 1 - np.asarray(clean)

        return work

    return ready
