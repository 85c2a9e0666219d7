"""DeepConfuse: a net learns to make noise by watching nets that are trained on it."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.surrogate import Surrogate, net_fits
from taster.attacks.unlearnable.perturbation_net import (
    PerturbationNet,
    PerturbationNetSettings,
    perturbation_net,
    perturbations,
)
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.attacks.unrolled_update import OneStepUpdate, unrolled_gradient
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.threat import threat
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import settings_group, validate_settings

_NAME = "deep_confuse"


@settings_group
class ConfuseSettings(PerturbationNetSettings):
    """How the net that makes the noise is trained.

    Attributes:
        width: channels of its first layer; the others have as many or twice as many.
        net_learning_rate: of Adam, which trains it.
        trials: T, how many nets are trained on its noise for each training that the attacker knows of.
        trial_steps: steps of each, and so of the net that makes the noise. None: as many as the training has. In few
            steps noise that is the same for all images does most harm, and none to a whole training.
        targeted: whether the trained nets are to take samples of class y for the class (y + s) mod K, in place of any
            wrong one.
        label_shift: s.
    """

    net_learning_rate: PositiveFloat = 5e-4
    trials: PositiveCount = 10
    trial_steps: PositiveCount | None = None
    targeted: bool = False
    label_shift: PositiveCount = 1


@threat("indiscriminate", "availability", "white box", "individual", "generative", "before training")
@validate_settings
def deep_confuse(
    derivatives: Derivatives | None = None,
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    confuse: ConfuseSettings = ConfuseSettings(),
) -> NoiseAttack:
    """Noise by a net g that maps each image to its perturbation, trained so that a net f that learns from perturbed
    images errs on clean ones.

        θ′ = θ − η / (1 − μ) ∇_θ L(f(x + g(x; ξ′); θ), y)   a look ahead from f's weights θ
        ξ′ ← Adam step that raises L(f(x; θ′), y)           or lowers L(f(x; θ′), (y + s) mod K), targeted
        θ ← SGD step on L(f(x + g(x; ξ); θ), y)             f goes on, on the noise of the trial's beginning

    In a trial f is trained from other random weights on the noise of a copy ξ that stays as it is, and ξ′ learns at
    each point of f's way; then ξ ← ξ′. Both steps of a turn are on the same batch. As f's way does not depend on ξ′, it
    need not be recorded first and gone through afterwards. η is the training's first learning rate and μ its momentum:
    in the long run a step of SGD goes as far as that. Normalization uses recorded statistics in the look ahead.

    Args:
        derivatives: computes the derivatives. Default: `Derivatives()`.
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        confuse: see `taster.attacks.unlearnable.deep_confuse.ConfuseSettings`.

    Raises (when it poisons):
        AttackError: for samples that are no images of finite floats, a share that is no sample, the training of an
            estimator or one that diverges, and a `label_shift` that leaves every class in its place.

    Source: Feng, Cai and Zhou 2019 ("Learning to confuse: generating training time adversarial data with
        auto-encoder"), Algorithm 1. The look ahead is without weight decay.
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        if confuse.targeted and confuse.label_shift % knowledge.classes == 0:
            raise AttackError(
                f"{_NAME}: label_shift: got {confuse.label_shift}, which leaves each of {knowledge.classes} classes in "
                "its place, wanted another"
            )
        fits, computing = net_fits(knowledge, _NAME), derivatives or Derivatives()
        net = perturbation_net(noise.own.x, confuse.width, noise.ball, knowledge.generator, _NAME)
        optimizer = torch.optim.Adam(net.parameters(), confuse.net_learning_rate, maximize=True)
        for trial in range(confuse.trials):
            noise.set(perturbations(net, noise.own.x))
            for fit in fits:
                victim = Surrogate(fit, len(noise.own), trial, knowledge.generator)
                epochs = Epochs(torch.ones(len(noise.own)), fit.settings.batch_size, knowledge.generator)
                steps = confuse.trial_steps or fit.settings.epochs * epochs.batches
                batches = epochs.endless()
                for _ in range(steps):
                    places = next(batches).to(noise.own.x.device)
                    clean = noise.own.select(places)
                    optimizer.zero_grad()
                    harm = Harm(victim.view, ahead_by(fit.settings), confuse, knowledge.classes, computing)
                    harm.backward(net, clean, noise.ball)
                    optimizer.step()
                    victim.step(noise.perturbed_at(places))
        noise.set(perturbations(net, noise.own.x))

    return noise_attack(_NAME, perturbation, make)


def ahead_by(training: TrainingSettings) -> float:
    """η / (1 − μ), how far a look ahead goes along the gradient."""
    return training.learning_rate / (1 - training.momentum)


class Harm:
    """What one step on perturbed samples does to a net's predictions of clean ones.

    Args:
        view: of the net before the step.
        learning_rate: how far the step goes along the gradient.
        settings: of the attack.
        classes: how many there are.
        derivatives: computes those through the step.
    """

    def __init__(
        self, view: View, learning_rate: float, settings: ConfuseSettings, classes: int, derivatives: Derivatives
    ) -> None:
        self._view, self._learning_rate, self._settings = view, learning_rate, settings
        self._classes, self._derivatives = classes, derivatives

    def backward(self, net: PerturbationNet, clean: Batch, ball: LpBall) -> float:
        """The harm of the net's noise, whose gradient is added to those of the net's parameters.

        Args:
            net: makes the noise.
            clean: samples x [b, c, h, w] and labels y int64 [b].
            ball: the budget, in the range of the data.
        """
        settings = self._settings
        sign = -1.0 if settings.targeted else 1.0
        y = (clean.y + settings.label_shift) % self._classes if settings.targeted else clean.y
        ahead = OneStepUpdate(self._view, Batch(clean.x, y), self._learning_rate)
        made: Tensor = ball.project(clean.x + net(clean.x), clean.x)
        loss, slopes = unrolled_gradient(ahead, self._derivatives)(Batch(made.detach(), clean.y))
        torch.autograd.backward((made * (sign * slopes())).sum())
        return sign * loss
