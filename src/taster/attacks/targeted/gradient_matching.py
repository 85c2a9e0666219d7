"""Gradient matching: poison whose gradient is that of the goal, for victims that are trained from scratch."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.surrogate import net_fits, train_nets
from taster.attacks.targeted.bases import draw_bases, largest_bases, with_poison
from taster.attacks.targeted.gradient_match import GradientMatch
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.derivatives import Derivatives
from taster.perturbations.pgd import LpBall
from taster.perturbations.random_shift import RandomShift
from taster.perturbations.signed_adam import signed_adam
from taster.utils.seeds import generator
from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group, validate_settings


@settings_group
class MatchingSettings(DatasetPoisonSettings):
    """How gradients are matched.

    Attributes:
        poison_fraction: poisoned samples over the samples of the clean set.
        epsilon: the most that a value may change, in the units of the data.
        steps: of signed Adam, in each restart.
        step_size: of signed Adam's first steps, in the units of the data. None: 0.4 ε.
        restarts: R. Each begins at a random point of the ball, and the one with the least loss is taken.
        bases: which samples of the wanted class are changed: "drawn" ones, the same as other targeted attacks take, or
            those with the "largest_gradient".
        nets: how many are trained for each training that the attacker knows of (`offline.attacker_models`), from other
            weights and in another order where these are random.
        retrain: whether the nets are trained anew before each restart but the first, from other weights, on the set as
            it is poisoned by then, and the restart goes on from that poison; the last one is taken.
        shift: the most that images are shifted at random while they are crafted, in pixels. None: as far as the
            training's own random crops go.
        flip: whether images are mirrored at random while they are crafted. None: where the training does.
    """

    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 0.01
    epsilon: NonNegative = 16 / 255
    steps: PositiveCount = 250
    step_size: PositiveFloat | None = None
    restarts: PositiveCount = 8
    bases: Literal["drawn", "largest_gradient"] = "drawn"
    nets: PositiveCount = 1
    retrain: bool = False
    shift: NonNegative | None = None
    flip: bool | None = None


@threat(
    "targeted",
    "integrity",
    "grey box",
    "individual",
    "bilevel",
    "before training",
    note="Knows the training, and none of its random weights.",
)
@validate_settings
def gradient_matching(
    derivatives: Derivatives | None = None,
    *,
    target: TargetSettings = TargetSettings(),
    matching: MatchingSettings = MatchingSettings(),
) -> DatasetAttack:
    """Changes samples of the wanted class, under their own labels, so that a step on them is a step towards the targets
    in that class (Witches' Brew).

    The loss 1 − cos(∇L(targets, wanted class), ∇L(poison)) is descended at the weights of nets that the attacker has
    trained on the clean set; of several nets and targets the mean counts. Poison that is crafted under random shifts
    and flips outlives those of the victim.

    Args:
        derivatives: computes the derivatives. Default: `Derivatives()`.
        target: what is wanted.
        matching: see `taster.attacks.MatchingSettings`.

    Raises (when it poisons):
        AttackError: for classes, targets or bases that there are not, a model that is no net, a training that comes to
            no finite loss, and shifts or flips of samples that are no images.

    Source: Geiping et al. 2021, Algorithm 1. Their gradients are of a batch of poison, here of all of it;
        training between restarts is after Souri et al. 2022 (Sleeper Agent).
    """
    budget = DatasetBudget(matching.poison_fraction, content=LpBall("linf", matching.epsilon))

    def wanted(knowledge: DatasetKnowledge) -> Batch:
        return draw_targets(target, knowledge).wanted

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        targets, computing = draw_targets(target, knowledge), derivatives or Derivatives()
        drawn = draw_bases(clean, targets, budget, knowledge)

        def trained(samples: Batch, first: int) -> GradientMatch:
            views = train_nets(matching.nets, samples, knowledge, "gradient_matching", first=first)
            return GradientMatch(views, Batch(targets.x.to(clean.x), targets.wanted.y.to(clean.y)), computing)

        match = trained(clean, 0)
        places = drawn
        if matching.bases == "largest_gradient":
            places = largest_bases(clean, targets.wanted_class, len(drawn), match.sample_norms)
        crafting = _Crafting(matching, clean.select(places), knowledge, computing)
        found, least = clean.x[places], float("inf")
        for number in range(matching.restarts):
            if matching.retrain and number:
                match = trained(with_poison(clean, places, found), number * matching.nets)
                found = crafting.descend(match, number, found)
                continue
            made = crafting.descend(match, number)
            value = crafting.loss(match, made)
            if value < least:
                found, least = made, value
        return Poison(with_poison(clean, places, found))

    return DatasetAttack(budget, attack, target=wanted)


class _Crafting:
    """The descent from one start.

    Args:
        settings: of the attack.
        bases: x [k, ...] and y [k].
        knowledge: of the attacker.
        derivatives: computes the derivatives.
    """

    def __init__(
        self, settings: MatchingSettings, bases: Batch, knowledge: DatasetKnowledge, derivatives: Derivatives
    ) -> None:
        self._settings = settings
        self._bases = bases
        self._seed = knowledge.generator.initial_seed()
        self._derivatives = derivatives
        self._ball = LpBall("linf", settings.epsilon, knowledge.low, knowledge.high)
        training = net_fits(knowledge, "gradient_matching")[0].settings
        self._augment = RandomShift(
            training.crop if settings.shift is None else settings.shift,
            training.flip if settings.flip is None else settings.flip,
        )

    def descend(self, match: GradientMatch, number: int, init: Tensor | None = None) -> Tensor:
        """Poison [k, ...].

        Args:
            match: what is descended.
            number: of the restart, which random numbers follow from.
            init: where it begins. Default: at random.
        """
        settings, bases = self._settings, self._bases
        start = self._ball.random(bases.x, generator(self._seed, f"start {number}")) if init is None else init

        def descent() -> Tensor:
            draws = generator(self._seed, f"augmentation {number}")

            def ascent(x: Tensor) -> Tensor:
                at = x.detach().requires_grad_()
                seen = self._augment(at, draws)
                slope = match.ascent(seen.detach(), bases.y)
                return slope if seen is at else torch.autograd.grad(seen, at, slope)[0]

            return signed_adam(
                ascent,
                bases.x,
                self._ball,
                steps=settings.steps,
                step_size=0.4 * settings.epsilon if settings.step_size is None else settings.step_size,
                init=start,
            )

        return self._derivatives.without_waiting(descent)

    def loss(self, match: GradientMatch, x: Tensor) -> float:
        """Of poison [k, ...], under the same shifts and flips for every restart."""
        return float(match.loss(self._augment(x, generator(self._seed, "judgement")), self._bases.y))
