"""Error-maximising noise: adversarial samples of a trained net under their own labels, as a training set."""

from __future__ import annotations

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.adversarial_noise import AdversarialSettings, make_adversarial
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "feature space",
    "before training",
    note="Its family is a matter of opinion: the noise has features of another class, but is found by the loss.",
)
@validate_settings
def error_maximising_noise(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    adversarial: AdversarialSettings = AdversarialSettings(pgd_steps=250),
) -> NoiseAttack:
    """Adversarial samples of a net that was trained on the clean samples, under their own labels.

        targeted      min over ‖δ‖ ≤ ε of CE(f(x + δ; θ), g(y)),   g(y) = (y + s) mod K
        untargeted    max over ‖δ‖ ≤ ε of CE(f(x + δ; θ), y)

    Who trains on them learns features of the class g(y), or of whatever class the noise looks like, under the label y.
    `adversarial_poison` is the same on a stream, by the model of the moment.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        adversarial: see `taster.attacks.unlearnable.adversarial_noise.AdversarialSettings`.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, a share that is no sample, the training of an estimator, and
            a `label_shift` that leaves every class in its place.

    Source: Fowl et al. 2021 ("Adversarial examples make strong poisons"), without its restarts.
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        make_adversarial(noise, knowledge, adversarial, "error_maximising_noise")

    return noise_attack("error_maximising_noise", perturbation, make)
