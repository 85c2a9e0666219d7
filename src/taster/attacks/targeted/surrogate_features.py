"""The features that an attacker measures his poison by: of nets that he trains on the clean set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.surrogate import train_nets
from taster.core.batch import Batch
from taster.core.view import View
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import settings_group


@settings_group
class SurrogateSettings:
    """The nets whose features an attack goes by.

    Attributes:
        nets: how many are trained for each training that the attacker knows of (`offline.attacker_models`), from other
            weights and in another order where these are random.
        layers: names of the layers whose features count, averaged over places where there are any. None: what goes
            into the last linear layer.
    """

    nets: PositiveCount = 1
    layers: list[str] | None = None


@dataclass(frozen=True, eq=False)
class SurrogateFeatures:
    """Features of samples in several nets and layers.

    Attributes:
        views: of the nets.
        layers: of each net; None for the input of the last linear layer.
    """

    views: tuple[View, ...]
    layers: tuple[str | None, ...] = (None,)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Features [n, d] in each layer of each net, differentiable in the samples [n, ...].

        Raises:
            ModelError: for a layer that there is not, or that has no features.
        """
        return [view.features(x, layer)[0] for view in self.views for layer in self.layers]

    def fixed(self, x: Tensor) -> list[Tensor]:
        """The same without a graph."""
        with torch.no_grad():
            return [features.detach() for features in self(x)]


def train_surrogates(
    settings: SurrogateSettings, clean: Batch, knowledge: DatasetKnowledge, name: str
) -> SurrogateFeatures:
    """Trains the attacker's nets on the clean set, as he supposes that the victim does.

    Args:
        settings: which nets, and which of their layers.
        clean: the training set.
        knowledge: of the attacker.
        name: of the attack.

    Raises:
        AttackError: for the training of an estimator, and one that comes to no finite loss.
    """
    return SurrogateFeatures(train_nets(settings.nets, clean, knowledge, name), tuple(settings.layers or [None]))
