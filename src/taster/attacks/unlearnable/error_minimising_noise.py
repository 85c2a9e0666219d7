"""Error-minimising noise: images that are learned already, so that there is nothing left to learn from them."""

from __future__ import annotations

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.alternating import AlternatingSettings, alternate
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
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
def error_minimising_noise(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    class_wise: bool = False,
    alternating: AlternatingSettings = AlternatingSettings(),
) -> NoiseAttack:
    """Noise by which a net in training has next to no loss: min over θ and ‖δ‖ ≤ ε of CE(f(x + δ; θ), y).

    A net that is trained on such samples learns the noise, and little of the images. See
    `taster.attacks.unlearnable.alternating.alternate`.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        class_wise: one perturbation a class, drawn at random first, in place of one a sample, 0 at first.
        alternating: see `taster.attacks.unlearnable.alternating.AlternatingSettings`. The published ones are
            `train_steps` 10, `pgd_steps` 20 (class-wise 1), `stop_error` 0.01, without `augment`.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, a share that is no sample, and the training of an estimator
            or one that diverges.

    Source: Huang et al. 2021 ("Unlearnable examples: making personal data unexploitable").
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        alternate(noise, knowledge, alternating, "error_minimising_noise")

    return noise_attack("error_minimising_noise", perturbation, make, class_wise=class_wise)
