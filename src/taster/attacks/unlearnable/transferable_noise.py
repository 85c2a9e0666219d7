"""Transferable noise: it lowers the loss of self-supervised training, and tells the classes apart by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.contrastive_noise import ContrastiveNets, ContrastiveSettings
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
from taster.errors import AttackError
from taster.selfsup.image_views import ViewSettings
from taster.selfsup.pretraining import PretrainingSettings
from taster.stats.perturbation_measures import class_separability_gradient
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "white box", "individual", "bilevel", "before training")
@validate_settings
def transferable_noise(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    contrastive: ContrastiveSettings = ContrastiveSettings(),
    csd_steps: PositiveCount = 5,
    csd_step_size: PositiveFloat | None = None,
    pretraining: PretrainingSettings = PretrainingSettings(),
    views: ViewSettings = ViewSettings(),
) -> NoiseAttack:
    """Noise for training with labels and without: rounds of `contrastive_poison`, and in each of them steps that lower
    the class-wise separability discriminant of the perturbations.

        θ ← θ − η ∇_θ L               M steps, on batches of the protected images
        δ ← proj(δ − α sign ∇_δ L)    T steps, for every protected image
        δ ← proj(δ − α' sign ∇_δ CSD(δ, y))   S steps, of all perturbations at once

    The paper lowers a weighted sum of both on each batch. Here they take turns, so that the discriminant is that of the
    whole set, and neither has a weight. Noise begins at random, as classes with one mean have no discriminant.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        contrastive: see `taster.attacks.unlearnable.contrastive_noise.ContrastiveSettings`. With `pgd_steps` = 0 the
            noise separates the classes and does nothing else, but that it is cut to each image's range once a round.
        csd_steps: S.
        csd_step_size: α', in the units of the data. None: ε / 10.
        pretraining: of the nets that the noise is made by; the rounds say how long they are trained.
        views: how they draw views.

    Raises (when it poisons):
        AttackError: unless samples are at least two images [n, 1 or 3, h, w] within 0 to 1 of two classes, for a share
            that is no sample, and for the training of an estimator.
        ModelError: for a net without a linear layer, and a training that diverges.

    Source: Ren et al. 2023 ("Transferable unlearnable examples"); for the discriminant see
        `taster.stats.perturbation_measures.class_separability_discriminant`.
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        labels = noise.own.y.cpu().numpy()
        nets = ContrastiveNets(
            noise, knowledge, contrastive, pretraining, views, contrastive.rounds, "transferable_noise"
        )
        if len(set(labels.tolist())) < 2:
            raise AttackError("transferable_noise: got samples of one class to perturb, wanted at least two classes")

        def gradient(values: Tensor) -> Tensor:
            rows = values.flatten(1).double().cpu().numpy()
            return torch.from_numpy(class_separability_gradient(rows, labels)).to(values).reshape(values.shape)

        noise.draw(knowledge.generator)
        size = noise.ball.epsilon / 10 if csd_step_size is None else csd_step_size
        for _ in range(contrastive.rounds):
            nets.take_turns(noise, 1)
            noise.follow(gradient, steps=csd_steps, step_size=size)

    return noise_attack("transferable_noise", perturbation, make)
