"""Noise and nets by turns: nets are trained on perturbed samples, and the noise follows the nets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.surrogate import Surrogate, augmentation, net_fits
from taster.attacks.unlearnable.set_noise import SetNoise, Slope, total_slope
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.view import View
from taster.perturbations.sample_gradient import cross_entropy_gradient
from taster.utils.setting_types import Count, PositiveCount, PositiveFloat, Quantile
from taster.utils.settings import settings_group

Worst = Callable[[View, Tensor, Tensor], Tensor]
"""The samples [n, ...] with labels [n] as the net of the view finds them hardest, [n, ...]."""


@settings_group
class AlternatingSettings:
    """How noise and nets take turns.

    Attributes:
        train_steps: steps of training in a round, M.
        pgd_steps: steps of the noise in a round, T, for each batch.
        step_size: α of the noise, in the units of the data. None: ε / 10.
        stop_error: the rounds end when the share of perturbed samples that each net misclassifies is at most this, λ.
        max_rounds: they end after so many in any case.
        augment: draws of the training's crops and flips that a gradient of the noise is averaged over. 0: the noise
            is made for samples as they are.
    """

    train_steps: PositiveCount = 10
    pgd_steps: PositiveCount = 20
    step_size: PositiveFloat | None = None
    stop_error: Quantile = 0.01
    max_rounds: PositiveCount = 100
    augment: Count = 0


def alternate(
    noise: SetNoise, knowledge: DatasetKnowledge, settings: AlternatingSettings, name: str, worst: Worst | None = None
) -> list[Surrogate]:
    """Makes error-minimising noise by alternating minimisation.

        θ ← θ − η ∇_θ CE(f(x + δ; θ), y)          M steps of the training, on batches of the protected samples
        δ ← proj(δ − α sign ∇ₓ CE(f(x + δ; θ), y))  T steps, for every protected sample

    Args:
        noise: of the protected samples; changes. Class-wise noise begins at random.
        knowledge: of the attacker, whose trainings' nets all take part.
        settings: see `AlternatingSettings`.
        name: of the attack.
        worst: moves x + δ before both lines, and before the error is measured; no derivative is taken of that move.
            None: it stays.

    Returns:
        the nets as they are at the end.

    Raises:
        AttackError: see `net_fits` and `Surrogate.step`.
    """
    generator = knowledge.generator
    if noise.class_wise:
        noise.draw(generator)
    own, fits = noise.own, net_fits(knowledge, name)
    nets = [Surrogate(fit, len(own), 0, generator) for fit in fits]
    batches = [Epochs(torch.ones(len(own)), fit.settings.batch_size, generator).endless() for fit in fits]
    size = noise.ball.epsilon / 10 if settings.step_size is None else settings.step_size
    for _ in range(settings.max_rounds):
        for net, places in zip(nets, batches, strict=True):
            for _ in range(settings.train_steps):
                batch = noise.perturbed_at(next(places).to(own.x.device))
                net.step(batch if worst is None else Batch(worst(net.view, batch.x, batch.y), batch.y))
        noise.ascend(
            total_slope([_descent(net, settings.augment, generator, worst) for net in nets]),
            steps=settings.pgd_steps,
            step_size=size,
            batch_size=fits[0].settings.batch_size,
        )
        if all(_error(net, noise, worst) <= settings.stop_error for net in nets):
            break
    return nets


def _error(net: Surrogate, noise: SetNoise, worst: Worst | None) -> float:
    """The share of the perturbed samples that a net misclassifies."""
    view, wrong = net.view, 0
    for places in torch.split(torch.arange(len(noise.own), device=noise.own.x.device), 1000):
        batch = noise.perturbed_at(places)
        x = batch.x if worst is None else worst(view, batch.x, batch.y)
        wrong += int((view.outputs(x).argmax(1) != batch.y).sum())
    return wrong / len(noise.own)


def _descent(net: Surrogate, draws: int, generator: torch.Generator, worst: Worst | None) -> Slope:
    """−∇ₓ CE, averaged over draws of the augmentation."""
    view, transform = net.view, augmentation(net.fit, generator) if draws else None

    def slope(x: Tensor, y: Tensor) -> Tensor:
        at = x if worst is None else worst(view, x, y)
        gradient = cross_entropy_gradient(view, y, transform)
        return -torch.stack([gradient(at) for _ in range(draws if transform else 1)]).mean(0)

    return slope
