"""Samples that a generative model has drawn, under wrong labels, beside those of a training set."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taster.attacks.dataset.flat_samples import FlatSamples, flat_samples, other_labels, poisoned_count, with_inserted
from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.errors import AttackError
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings

_NAME = "generated_samples"
_LEAST_VARIANCE = 1e-4
_LEAST_OF_A_CLASS = 2


@threat(
    "indiscriminate",
    "availability",
    "grey box",
    "individual",
    "generative",
    "before training",
    note="It knows the training set, and no model of the victim's.",
)
@validate_settings
def generated_samples(
    *,
    poisoning: DatasetPoisonSettings = DatasetPoisonSettings(poison_fraction=0.2),
    dimensions: PositiveCount = 30,
    components: PositiveCount = 5,
    labels: Literal["random", "next", "right"] = "random",
) -> DatasetAttack:
    """Inserts new samples of each class, drawn from a model of the training set, under wrong labels.

    The model is the principal components of all samples, and in them a mixture of Gaussians for each class, with
    diagonal covariances. What it draws is brought back into the range of the data. Classes are as frequent as in the
    training set.

    A learner cannot tell such samples from honest ones by where they lie, and no sample is there twice with different
    labels, so that the labels alone speak against them.

    Args:
        poisoning: how many samples are inserted, as a share of the clean set.
        dimensions: principal components; at most as many as there are samples and values in one.
        components: Gaussians of a class; at most as many as it has samples.
        labels: "random" wrong ones; those of the "next" class, and 0 after the last; or, as a control, the "right"
            ones of the class that the model drew for.

    Raises (when it poisons):
        AttackError: for a share that is no sample; samples that are not finite floating-point numbers; a single class;
            a class that has one sample alone.

    Source: taster's own, after the setting of Shen and Sanghavi 2019, who train on samples of which some are a
        generative model's.
    """
    budget = DatasetBudget(poisoning.poison_fraction, insert=True, content="any", labels=True)

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        count = poisoned_count(budget, len(clean), _NAME)
        samples = flat_samples(clean, knowledge, _NAME)
        draw = knowledge.generator
        order = torch.randperm(len(samples), generator=draw, device=draw.device)[:count]
        y = samples.y[order.to(samples.y.device)].sort().values
        x = _drawn(samples, y, dimensions, components, draw)
        return Poison(with_inserted(clean, x, _labels(y, labels, knowledge)))

    return DatasetAttack(budget, poison)


def _labels(y: Tensor, labels: str, knowledge: DatasetKnowledge) -> Tensor:
    if labels == "right":
        return y
    random = other_labels(y, knowledge.classes, knowledge.generator)
    return random if labels == "random" else (y + 1) % knowledge.classes


def _drawn(samples: FlatSamples, y: Tensor, dimensions: int, components: int, generator: torch.Generator) -> Tensor:
    """New samples of these classes, which are in ascending order, float64 [k, d].

    Raises:
        AttackError: for a class of which there is one sample.
    """
    from sklearn.decomposition import PCA  # slow to import, and only needed here
    from sklearn.mixture import GaussianMixture

    known: NDArray[np.float64] = samples.x.cpu().numpy()
    of: NDArray[np.int64] = samples.y.cpu().numpy()
    reduction = PCA(min(dimensions, *known.shape), svd_solver="full").fit(known)
    reduced = reduction.transform(known)
    found = []
    for label, count in zip(*(part.tolist() for part in torch.unique(y, return_counts=True)), strict=True):
        members = reduced[of == label]
        if len(members) < _LEAST_OF_A_CLASS:
            raise AttackError(f"{_NAME}: got one sample of class {label}, wanted at least {_LEAST_OF_A_CLASS}")
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        mixture = GaussianMixture(
            min(components, len(members)),
            covariance_type="diag",
            reg_covar=_LEAST_VARIANCE,
            random_state=np.random.RandomState(seed),
        ).fit(members)
        found.append(reduction.inverse_transform(mixture.sample(count)[0]))
    return torch.from_numpy(np.concatenate(found)).to(samples.x.device)
