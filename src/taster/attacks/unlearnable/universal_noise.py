"""Universal perturbations as class-wise noise: one for each class, which turns a net's decision for all its samples."""

from __future__ import annotations

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.adversarial_noise import AdversarialSettings, make_adversarial
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "white box", "universal", "feature space", "before training")
@validate_settings
def universal_noise(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    adversarial: AdversarialSettings = AdversarialSettings(pgd_steps=10),
    passes: PositiveCount = 5,
) -> NoiseAttack:
    """One perturbation δ_c for each class c, which makes a net that was trained on the clean samples err on that class.

        targeted      min over ‖δ_c‖ ≤ ε of Σ_{x of class c} CE(f(x + δ_c; θ), (c + s) mod K)
        untargeted    max over ‖δ_c‖ ≤ ε of Σ_{x of class c} CE(f(x + δ_c; θ), c)

    By PGD, batch by batch. It serves new images of a class, too: `attack.noise(clean, knowledge).apply(x, y)`.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        adversarial: see `taster.attacks.unlearnable.adversarial_noise.AdversarialSettings`; `pgd_steps` are for each
            batch of a pass.
        passes: over the protected samples.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, a share that is no sample, the training of an estimator, and
            a `label_shift` that leaves every class in its place.

    Source: universal perturbations Moosavi-Dezfooli et al. 2017; by gradients of a batch, with a target class, Zhang et
        al. 2020 ("Understanding adversarial examples from the mutual influence of images and perturbations").
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        make_adversarial(noise, knowledge, adversarial, "universal_noise", passes)

    return noise_attack("universal_noise", perturbation, make, class_wise=True)
