"""Adversarial noise of nets that were trained on the clean samples, for each sample or for each class."""

from __future__ import annotations

from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.surrogate import augmentation, net_fits
from taster.attacks.unlearnable.set_noise import SetNoise, Slope, total_slope
from taster.core.fitting import NetFit
from taster.perturbations.sample_gradient import error_maximising_gradient
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import settings_group


@settings_group
class AdversarialSettings:
    """How adversarial noise is made.

    Attributes:
        targeted: whether to descend towards the class g(y) = (y + s) mod K instead of ascending from y.
        label_shift: s.
        pgd_steps: number of PGD steps, C.
        step_size: α, in the units of the data. None: ε / 20.
        random_start: whether PGD starts at a random point of the ball instead of the clean samples.
        augment: whether the gradient is taken through the training's random crops and flips, a draw a step.
    """

    targeted: bool = True
    label_shift: PositiveCount = 1
    pgd_steps: PositiveCount = 100
    step_size: PositiveFloat | None = None
    random_start: bool = True
    augment: bool = True


def make_adversarial(
    noise: SetNoise, knowledge: DatasetKnowledge, settings: AdversarialSettings, name: str, passes: int = 1
) -> None:
    """Trains a net on the protected samples as each training does, and makes adversarial noise of all of them.

    Args:
        noise: of the protected samples; changes.
        knowledge: of the attacker.
        settings: see `AdversarialSettings`.
        name: of the attack.
        passes: over the protected samples, each of `pgd_steps` steps a batch.

    Raises:
        AttackError: for the training of an estimator, and a `label_shift` that leaves every class in its place.
    """
    fits = net_fits(knowledge, name)
    slopes = [_slope(fit, noise, knowledge, settings) for fit in fits]
    if settings.random_start:
        noise.draw(knowledge.generator)
    for _ in range(passes):
        noise.ascend(
            total_slope(slopes),
            steps=settings.pgd_steps,
            step_size=noise.ball.epsilon / 20 if settings.step_size is None else settings.step_size,
            batch_size=fits[0].settings.batch_size,
        )


def _slope(fit: NetFit, noise: SetNoise, knowledge: DatasetKnowledge, settings: AdversarialSettings) -> Slope:
    view = fit(noise.own)
    transform = augmentation(fit, knowledge.generator) if settings.augment else None
    shift = settings.label_shift if settings.targeted else None

    def slope(x: Tensor, y: Tensor) -> Tensor:
        return error_maximising_gradient(view, y, shift, transform)(x)

    return slope
