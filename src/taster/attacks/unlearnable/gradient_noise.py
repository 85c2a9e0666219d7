"""Noise that changes what a batch does to a net: an objective of the batch's gradient in the parameters."""

from __future__ import annotations

from collections.abc import Callable

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.surrogate import net_fits, trained
from taster.attacks.unlearnable.set_noise import SetNoise, Slope, total_slope
from taster.core.view import View
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import settings_group


@settings_group
class GradientNoiseSettings:
    """How noise is made by gradients in the parameters.

    Attributes:
        surrogate_epochs: of training on the clean samples before. None: as many as the training has.
        pgd_steps: number of PGD steps, for each batch.
        step_size: α, in the units of the data. None: ε / 10.
        random_start: whether PGD starts at a random point of the ball instead of the clean samples.
    """

    surrogate_epochs: PositiveCount | None = None
    pgd_steps: PositiveCount = 50
    step_size: PositiveFloat | None = None
    random_start: bool = True


def make_gradient_noise(
    noise: SetNoise,
    knowledge: DatasetKnowledge,
    settings: GradientNoiseSettings,
    name: str,
    slope_of: Callable[[View], Slope],
) -> None:
    """Trains a net on the protected samples as each training does, and ascends an objective of them.

    Args:
        noise: of the protected samples; changes.
        knowledge: of the attacker.
        settings: see `GradientNoiseSettings`.
        name: of the attack.
        slope_of: the gradient of the objective, of a net.

    Raises:
        AttackError: for the training of an estimator, or one that diverges.
    """
    fits = net_fits(knowledge, name)
    views = [trained(fit, noise.own, knowledge.generator, settings.surrogate_epochs) for fit in fits]
    slopes = [slope_of(view) for view in views]
    if settings.random_start:
        noise.draw(knowledge.generator)
    noise.ascend(
        total_slope(slopes),
        steps=settings.pgd_steps,
        step_size=noise.ball.epsilon / 10 if settings.step_size is None else settings.step_size,
        batch_size=fits[0].settings.batch_size,
    )
