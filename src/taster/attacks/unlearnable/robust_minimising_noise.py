"""Robust error-minimising noise: images that a net in adversarial training has learned already."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.alternating import AlternatingSettings, alternate
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
from taster.core.view import View
from taster.perturbations.pgd import LpBall, pgd
from taster.perturbations.sample_gradient import cross_entropy_gradient
from taster.utils.setting_types import PositiveCount, PositiveFloat
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
def robust_minimising_noise(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    class_wise: bool = False,
    alternating: AlternatingSettings = AlternatingSettings(pgd_steps=10, max_rounds=20),
    adversary: Annotated[float, Field(ge=0)] = 4 / 255,
    adversary_steps: PositiveCount = 10,
    adversary_step_size: PositiveFloat | None = None,
) -> NoiseAttack:
    """Noise that leaves little to learn even to adversarial training: min over θ, min over ‖δ‖ ≤ ρ_u of the expectation
    of max over ‖a‖ ≤ ρ_a of CE(f(x + δ + a; θ), y).

    As `error_minimising_noise`, with each sample moved to where it is hardest before the net is trained on it and
    before the noise follows the net. The expectation is over `augment` draws of the training's crops and flips, with a
    found before them. The paper makes the noise anew by the last net; here it goes on from round to round.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; its ε is ρ_u. The share is of the training set.
        class_wise: one perturbation a class, drawn at random first, in place of one a sample, 0 at first.
        alternating: see `taster.attacks.unlearnable.alternating.AlternatingSettings`.
        adversary: ρ_a, the radius of the adversarial training that the noise is to withstand, in the same norm. At 0
            this is `error_minimising_noise`.
        adversary_steps: of PGD.
        adversary_step_size: in the units of the data. None: ρ_a / 5.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, a share that is no sample, and the training of an estimator
            or one that diverges.

    Source: Fu et al. 2022 ("Robust unlearnable examples: protecting data against adversarial learning").
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        ball = LpBall(perturbation.norm, adversary, knowledge.low, knowledge.high)
        size = adversary / 5 if adversary_step_size is None else adversary_step_size

        def worst(view: View, x: Tensor, y: Tensor) -> Tensor:
            return pgd(cross_entropy_gradient(view, y), x, ball, steps=adversary_steps, step_size=size)

        alternate(noise, knowledge, alternating, "robust_minimising_noise", worst if adversary else None)

    return noise_attack("robust_minimising_noise", perturbation, make, class_wise=class_wise)
