"""Noise for the samples of a training set: one perturbation for each, or one for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, Poison
from taster.attacks.online_attack import PerturbationSettings
from taster.core.batch import Batch
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall, pgd

Slope = Callable[[Tensor, Tensor], Tensor]
"""The gradient of what the noise is to raise, [n, ...], at perturbed samples [n, ...] with labels [n]."""


class SetNoise:
    """Perturbations of the protected samples, kept beside them: a crop or a flip in training moves both together.

    Args:
        clean: the whole training set, x [n, ...] and y int64 [n].
        rows: places of the protected samples, int64 [m].
        ball: the budget, in the range of the data.
        classes: for one perturbation a class, how many there are; None for one a sample.

    Attributes:
        ball: the budget, in the range of the data.
        class_wise: whether there is one perturbation a class.
        own: the protected samples as they were.
        values: the perturbations, [m, ...] or [classes, ...]; all 0 at first.
    """

    def __init__(self, clean: Batch, rows: Tensor, ball: LpBall, *, classes: int | None = None) -> None:
        self._clean, self._rows, self.ball = clean, rows.to(clean.x.device), ball
        self.class_wise = classes is not None
        self.own = clean.select(self._rows)
        self.values = clean.x.new_zeros(len(rows) if classes is None else classes, *clean.x.shape[1:])
        width = ball.high - ball.low
        self._around_zero = replace(ball, low=-width, high=width)

    @property
    def perturbed(self) -> Batch:
        """The protected samples with their noise, x [m, ...] and y [m]."""
        return self.perturbed_at(torch.arange(len(self.own), device=self.own.x.device))

    @property
    def samples(self) -> Batch:
        """The whole training set, with the protected samples perturbed, x [n, ...] and y [n]."""
        x = self._clean.x.clone()
        x[self._rows] = self.perturbed.x
        return Batch(x, self._clean.y)

    def perturbed_at(self, places: Tensor) -> Batch:
        """Some of the protected samples with their noise; `places` int64 [k] among the m."""
        part = self.own.select(places)
        noise = self.values[part.y if self.class_wise else places]
        return Batch(self.ball.project(part.x + noise, part.x), part.y)

    def apply(self, x: Tensor, y: Tensor) -> Tensor:
        """New samples with the noise of their classes, [k, ...].

        Args:
            x: samples in the range of the data, [k, ...].
            y: their classes, int64 [k].

        Raises:
            AttackError: where each sample has a perturbation of its own, and for samples of another shape or classes
                that there are not.
        """
        if not self.class_wise:
            raise AttackError(
                "got noise that was made for each sample by itself, wanted class-wise noise, which serves new samples; "
                "make it with class_wise = true"
            )
        if x.shape[1:] != self.values.shape[1:] or y.shape != x.shape[:1]:
            raise AttackError(
                f"got samples {list(x.shape)} and labels {list(y.shape)}, wanted [k, "
                f"{', '.join(map(str, self.values.shape[1:]))}] and [k]"
            )
        if len(y) and (int(y.min()) < 0 or int(y.max()) >= len(self.values)):
            raise AttackError(f"got classes from {int(y.min())} to {int(y.max())}, wanted 0 to {len(self.values) - 1}")
        return self.ball.project(x + self.values[y].to(x), x)

    def set(self, values: Tensor) -> None:
        """Takes other perturbations, shaped as `values`, projected into the ball around 0."""
        self.values = self._around_zero.project(values.to(self.values), torch.zeros_like(self.values))

    def draw(self, generator: torch.Generator, *, boundary: bool = False) -> None:
        """Draws the perturbations at random, from the ball around 0 or from its boundary."""
        center, around = torch.zeros_like(self.values), self._around_zero
        self.values = (around.random_boundary if boundary else around.random)(center, generator)

    def ascend(self, slope: Slope, *, steps: int, step_size: float, batch_size: int) -> None:
        """One pass of projected gradient ascent over the protected samples, batch by batch.

        A class's perturbation follows the sum of the gradients of its samples in a batch.

        Args:
            slope: the gradient of what is raised.
            steps: for each batch.
            step_size: α, in the units of the data.
            batch_size: samples at once. For noise of each sample it changes nothing but memory and time, unless
                the gradient looks at the batch as a whole.
        """
        for places in torch.split(torch.arange(len(self.own), device=self.own.x.device), batch_size):
            if self.class_wise:
                self._ascend_classes(slope, places, steps, step_size)
            else:
                part = self.own.select(places)
                moved = pgd(
                    lambda x, y=part.y: slope(x, y),  # type: ignore[misc]
                    part.x,
                    self.ball,
                    steps=steps,
                    step_size=step_size,
                    init=part.x + self.values[places],
                )
                self.values[places] = moved - part.x

    def follow(self, gradient: Callable[[Tensor], Tensor], *, steps: int, step_size: float) -> None:
        """Projected gradient descent of a function of the perturbations alone, of all of them at once.

        Args:
            gradient: of the function, [m, ...] or [classes, ...] like the perturbations that it is given.
            steps: how many.
            step_size: α, in the units of the data.
        """
        zero = torch.zeros_like(self.values)
        for _ in range(steps):
            self.values = self._around_zero.step(self.values, -gradient(self.values), step_size, zero)

    def _ascend_classes(self, slope: Slope, places: Tensor, steps: int, step_size: float) -> None:
        zero = torch.zeros_like(self.values)
        for _ in range(steps):
            part = self.perturbed_at(places)
            total = zero.index_add(0, part.y, torch.nan_to_num(slope(part.x, part.y)))
            self.values = self._around_zero.step(self.values, total, step_size, zero)


def total_slope(slopes: Sequence[Slope]) -> Slope:
    """The sum of gradients, of several nets say."""

    def slope(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([of(x, y) for of in slopes]).sum(0)

    return slope


MakeNoise = Callable[[Batch, DatasetKnowledge], SetNoise]


@dataclass(frozen=True)
class NoiseAttack(DatasetAttack):
    """An attack that perturbs samples under their own labels.

    Attributes:
        noise: makes the noise for a training set; `SetNoise.apply` of class-wise noise serves new samples, too.
    """

    noise: MakeNoise = field(kw_only=True)


def noise_attack(
    name: str,
    perturbation: PerturbationSettings,
    make: Callable[[SetNoise, DatasetKnowledge], None],
    *,
    class_wise: bool = False,
) -> NoiseAttack:
    """An attack whose noise a function fills in.

    Args:
        name: of the attack.
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        make: changes the noise, which is 0 at first, given what the attacker knows.
        class_wise: one perturbation a class in place of one a sample.

    Raises (when called):
        AttackError: for samples that are no finite floating-point numbers, and a share that is no sample.
    """
    budget = DatasetBudget(perturbation.poison_fraction, content=LpBall(perturbation.norm, perturbation.epsilon))

    def noise(clean: Batch, knowledge: DatasetKnowledge) -> SetNoise:
        if not clean.x.is_floating_point() or not bool(clean.x.isfinite().all()):
            raise AttackError(f"{name}: got samples of {clean.x.dtype} or not finite, wanted finite floats")
        rows = budget.draw(len(clean), knowledge.generator)
        if not len(rows):
            raise AttackError(
                f"{name}: poison_fraction: got {budget.poison_fraction}, which is no sample of {len(clean)}, wanted "
                f"at least {1 / len(clean):.2g}"
            )
        ball = LpBall(perturbation.norm, perturbation.epsilon, knowledge.low, knowledge.high)
        found = SetNoise(clean, rows, ball, classes=knowledge.classes if class_wise else None)
        make(found, knowledge)
        return found

    return NoiseAttack(budget, lambda clean, knowledge: Poison(noise(clean, knowledge).samples), noise=noise)
