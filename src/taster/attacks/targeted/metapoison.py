"""MetaPoison: poison by a look into the training of nets at all of its stages."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.surrogate import Surrogate, augmentation, net_fits
from taster.attacks.targeted.bases import draw_bases, with_poison
from taster.attacks.targeted.look_ahead import LookAhead
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.core.fitting import NetFit
from taster.core.threat import threat
from taster.core.types import BatchNormMode
from taster.perturbations.pgd import LpBall
from taster.perturbations.projected_adam import projected_adam
from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group, validate_settings


@settings_group
class MetaPoisonSettings(DatasetPoisonSettings):
    """How poison is made by looking ahead.

    Attributes:
        poison_fraction: poisoned samples over the samples of the clean set.
        epsilon: the most that a value may change, in the units of the data.
        steps: of Adam, after each of which every net is trained for an epoch.
        step_size: of Adam, in the units of the data. None: ε / 10.
        nets: M, for each training that the attacker knows of (`offline.attacker_models`).
        look_ahead: K, steps of training that are differentiated through.
        confidence: κ, the margin beyond which nothing more is wanted of a target.
        batch_norm: statistics of normalisation in these steps: those of the batch ("train"), or where training leaves
            the recorded ones as they are, as mode "transfer" does, these ("eval").
    """

    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 0.01
    epsilon: NonNegative = 8 / 255
    steps: PositiveCount = 60
    step_size: PositiveFloat | None = None
    nets: PositiveCount = 24
    look_ahead: PositiveCount = 2
    confidence: NonNegative = 0.0
    batch_norm: BatchNormMode = "train"


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
def metapoison(
    *, target: TargetSettings = TargetSettings(), meta: MetaPoisonSettings = MetaPoisonSettings()
) -> DatasetAttack:
    """Changes samples of the wanted class, under their own labels, so that a few steps of training on them put the
    targets there, at whatever stage the training is.

    M nets are trained on the set as it is poisoned by then, each at another epoch; one whose training ends begins anew
    from other weights. In each step of crafting each net looks K steps ahead, and the mean of what comes out for the
    targets is descended by Adam.

    Args:
        target: what is wanted.
        meta: see `taster.attacks.MetaPoisonSettings`.

    Raises (when it poisons):
        AttackError: for classes, targets or bases that there are not, a model that is no net, and a training that comes
            to no finite loss.

    Source: Huang et al. 2020, Algorithm 1. Their perturbation of colours is left out, as it is in no norm ball; their
        steps ahead are on batches that hold some of the poison, here on batches weighed with all of it.
    """
    budget = DatasetBudget(meta.poison_fraction, content=LpBall("linf", meta.epsilon))

    def wanted(knowledge: DatasetKnowledge) -> Batch:
        return draw_targets(target, knowledge).wanted

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        targets = draw_targets(target, knowledge)
        places = draw_bases(clean, targets, budget, knowledge)
        bases, goal = clean.select(places), Batch(targets.x.to(clean.x), targets.wanted.y.to(clean.y))
        nets = [
            _StaggeredNet(fit, clean, places, meta, number, knowledge.generator)
            for fit in net_fits(knowledge, "metapoison")
            for number in range(meta.nets)
        ]

        def ascent(x: Tensor) -> Tensor:
            slopes: list[Tensor] = []
            for net in nets:
                at = x.detach().requires_grad_()
                slopes += torch.autograd.grad(net.loss(Batch(at, bases.y), goal), at)
                net.train(with_poison(clean, places, x))
            return -torch.stack(slopes).mean(0)

        ball = LpBall("linf", meta.epsilon, knowledge.low, knowledge.high)
        start = ball.random(bases.x, knowledge.generator)
        step_size = meta.epsilon / 10 if meta.step_size is None else meta.step_size
        found = projected_adam(ascent, bases.x, ball, steps=meta.steps, step_size=step_size, init=start)
        return Poison(with_poison(clean, places, found))

    return DatasetAttack(budget, attack, target=wanted)


class _StaggeredNet:
    """A net that begins at an epoch of its own, and anew when its training is over.

    Args:
        fit: the training.
        clean: the training set, on which it is trained up to its first epoch.
        places: of the poison in it.
        settings: of the attack.
        number: of the net, from 0 to M − 1: it begins after `number` M-ths of the training.
        generator: of batches, the order of samples, and augmentation.
    """

    def __init__(
        self,
        fit: NetFit,
        clean: Batch,
        places: Tensor,
        settings: MetaPoisonSettings,
        number: int,
        generator: torch.Generator,
    ) -> None:
        self._fit = fit
        self._settings = settings
        self._generator = generator
        others = torch.ones(len(clean), dtype=torch.bool)
        others[places.cpu()] = False
        self._others = clean.select(others.nonzero().flatten().to(clean.x.device))
        self._share = len(places) / len(clean)
        self._samples = len(clean)
        self._seed = number
        self._net = self._begin()
        self._net.train(clean, number * fit.settings.epochs // settings.nets)

    def loss(self, poison: Batch, goal: Batch) -> Tensor:
        """What the targets come to after K steps, differentiable in the poison."""
        training = self._fit.settings
        ahead = LookAhead(
            self._net.view,
            self._share,
            training.learning_rate_at(self._net.epochs / training.epochs),
            self._settings.batch_norm,
            augmentation(self._fit, self._generator),
        )
        clean = [self._draw(training.batch_size) for _ in range(self._settings.look_ahead)]
        return ahead.adversarial_loss(clean, poison, goal, self._settings.confidence)

    def train(self, samples: Batch) -> None:
        """Trains for an epoch, and begins anew where that was the last."""
        self._net.train(samples)
        if self._net.over:
            self._seed += self._settings.nets
            self._net = self._begin()

    def _begin(self) -> Surrogate:
        return Surrogate(self._fit, self._samples, self._seed, self._generator)

    def _draw(self, size: int) -> Batch:
        places = torch.randperm(len(self._others), generator=self._generator)[:size]
        return self._others.select(places.to(self._others.x.device))
