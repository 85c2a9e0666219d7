"""Random class-wise noise: the control that every class-wise noise has to beat."""

from __future__ import annotations

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "black box",
    "universal",
    "none",
    "before training",
    note="A control: noise of the size of an attack's, the same for all samples of a class.",
)
@validate_settings
def random_class_noise(*, perturbation: PerturbationSettings = PerturbationSettings()) -> NoiseAttack:
    """One random perturbation for each class, on the boundary of the ball.

    It can be learned as a mark of the class. The control for noise of each sample is `random_noise`.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, and a share that is no sample.

    Source: control of Huang et al. 2021.
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        noise.draw(knowledge.generator, boundary=True)

    return noise_attack("random_class_noise", perturbation, make, class_wise=True)
