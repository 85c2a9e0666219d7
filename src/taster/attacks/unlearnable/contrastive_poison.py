"""Contrastive poison: the noise tells an image's two views from those of others, so that nothing else is learned."""

from __future__ import annotations

import torch

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.contrastive_noise import ContrastiveNets, ContrastiveSettings
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
from taster.errors import AttackError
from taster.selfsup.image_views import ViewSettings
from taster.selfsup.pretraining import PretrainingSettings
from taster.utils.setting_types import Count
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "before training",
    note="With class_wise = true it is universal, one perturbation a class.",
)
@validate_settings
def contrastive_poison(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    class_wise: bool = False,
    class_rounds: Count = 0,
    contrastive: ContrastiveSettings = ContrastiveSettings(),
    pretraining: PretrainingSettings = PretrainingSettings(),
    views: ViewSettings = ViewSettings(),
) -> NoiseAttack:
    """Noise by which a net in self-supervised training has little loss: min over θ and ‖δ‖ ≤ ε of
    L(θ; v(x + δ), v'(x + δ)), with random views v and v'.

        θ ← θ − η ∇_θ L        M steps, on batches of the protected images
        δ ← proj(δ − α sign ∇_δ L)   T steps, for every protected image

    The gradient goes through the views' crops and colours and through both branches, also where training stops it.
    Labels have a part in class-wise noise alone.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        class_wise: one perturbation a class, drawn at random first, in place of one a sample, 0 at first.
        class_rounds: rounds of class-wise noise before those of sample-wise noise, which begins with it.
        contrastive: see `taster.attacks.unlearnable.contrastive_noise.ContrastiveSettings`. The published ones are
            `train_steps` 20 and `pgd_steps` 1 for class-wise noise, and for noise of each sample an epoch of training
            a round and `pgd_steps` 5, beginning with class-wise noise.
        pretraining: of the nets that the noise is made by; the rounds say how long they are trained.
        views: how they draw views.

    Raises:
        AttackError: for `class_rounds` with class-wise noise.

    Raises (when it poisons):
        AttackError: unless samples are at least two images [n, 1 or 3, h, w] within 0 to 1, for a share that is no
            sample, and for the training of an estimator.
        ModelError: for a net without a linear layer, and a training that diverges.

    Source: He, Zha and Katabi 2023 ("Indiscriminate poisoning attacks on unsupervised contrastive learning").
    """
    if class_wise and class_rounds:
        raise AttackError(f"class_rounds: got {class_rounds} with class_wise = true, wanted 0: say rounds")

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        rounds = contrastive.rounds + class_rounds
        nets = ContrastiveNets(noise, knowledge, contrastive, pretraining, views, rounds, "contrastive_poison")
        if class_wise:
            noise.draw(knowledge.generator)
        if class_rounds:
            everything = torch.arange(len(noise.own), device=noise.own.x.device)
            classes = SetNoise(noise.own, everything, noise.ball, classes=knowledge.classes)
            classes.draw(knowledge.generator)
            nets.take_turns(classes, class_rounds)
            noise.set(classes.values[noise.own.y])
        nets.take_turns(noise, contrastive.rounds)

    return noise_attack("contrastive_poison", perturbation, make, class_wise=class_wise)
