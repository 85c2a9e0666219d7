"""Noise and nets by turns: nets are trained on perturbed samples, and the noise follows the nets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

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
    nets = [
        _Supervised(Surrogate(fit, len(noise.own), 0, generator), settings.augment, generator, worst)
        for fit in net_fits(knowledge, name)
    ]
    take_turns(
        noise,
        nets,
        generator,
        train_steps=settings.train_steps,
        pgd_steps=settings.pgd_steps,
        step_size=noise.ball.epsilon / 10 if settings.step_size is None else settings.step_size,
        rounds=settings.max_rounds,
        over=lambda: all(_error(net.surrogate, noise, worst) <= settings.stop_error for net in nets),
    )
    return [net.surrogate for net in nets]


class TrainedNet(Protocol):
    """A net that is trained on perturbed samples, and that the noise follows."""

    @property
    def batch_size(self) -> int:
        """Samples of a step, at most."""

    def step(self, batch: Batch) -> None:
        """One step of training on perturbed samples."""

    def slope(self) -> Slope:
        """What the noise follows, by the net as it is now."""


def take_turns(
    noise: SetNoise,
    nets: Sequence[TrainedNet],
    generator: torch.Generator,
    *,
    train_steps: int,
    pgd_steps: int,
    step_size: float,
    rounds: int,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Trains nets on perturbed samples and lets the noise follow them, by turns.

    Args:
        noise: of the protected samples; changes.
        nets: of which the noise follows the sum of the slopes.
        generator: of the order of the samples.
        train_steps: of each net in a round.
        pgd_steps: of the noise in a round, for each batch of the first net's size.
        step_size: of the noise, in the units of the data.
        rounds: at most.
        over: called after each round; whether it was the last.
    """
    batches = [Epochs(torch.ones(len(noise.own)), net.batch_size, generator).endless() for net in nets]
    for _ in range(rounds):
        for net, places in zip(nets, batches, strict=True):
            for _ in range(train_steps):
                net.step(noise.perturbed_at(next(places).to(noise.own.x.device)))
        noise.ascend(
            total_slope([net.slope() for net in nets]),
            steps=pgd_steps,
            step_size=step_size,
            batch_size=nets[0].batch_size,
        )
        if over():
            break


@dataclass(frozen=True)
class _Supervised:
    """A net that is trained as a victim would be.

    Attributes:
        surrogate: the net.
        draws: see `AlternatingSettings.augment`.
        generator: of the augmentation.
        worst: see `alternate`.
    """

    surrogate: Surrogate
    draws: int
    generator: torch.Generator
    worst: Worst | None

    @property
    def batch_size(self) -> int:
        return self.surrogate.fit.settings.batch_size

    def step(self, batch: Batch) -> None:
        worst, net = self.worst, self.surrogate
        net.step(batch if worst is None else Batch(worst(net.view, batch.x, batch.y), batch.y))

    def slope(self) -> Slope:
        return _descent(self.surrogate, self.draws, self.generator, self.worst)


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
