"""Noise that follows nets in self-supervised training, through both views of each image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.surrogate import net_fits
from taster.attacks.unlearnable.alternating import take_turns
from taster.attacks.unlearnable.set_noise import SetNoise, Slope
from taster.core.batch import Batch
from taster.core.fitting import NetFit
from taster.errors import AttackError
from taster.selfsup.image_views import ViewSettings
from taster.selfsup.pretext_nets import MoCo, PretextNet, SimCLR, SimSiam
from taster.selfsup.pretraining import Pretraining, PretrainingSettings
from taster.utils.seeds import drawing_from
from taster.utils.setting_types import Count, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group

_KEY_MOMENTUM = 0.99
_QUEUE = 1024


@settings_group
class ContrastiveSettings:
    """How noise and nets in self-supervised training take turns.

    Attributes:
        method: by which the nets are trained.
        temperature: of its loss. None: 0.5 for SimCLR, 0.2 for MoCo; SimSiam has none.
        rounds: how many.
        train_steps: steps of training in a round, M.
        pgd_steps: steps of the noise in a round, T, for each batch.
        step_size: α of the noise, in the units of the data. None: ε / 10.
    """

    method: Literal["simclr", "moco", "simsiam"] = "simclr"
    temperature: PositiveFloat | None = None
    rounds: PositiveCount = 20
    train_steps: PositiveCount = 20
    pgd_steps: Count = 5
    step_size: PositiveFloat | None = None


class ContrastiveNets:
    """Nets in self-supervised training, one for each training that an attacker knows of, and the noise that follows.

    Args:
        noise: of the protected samples, [m, 1 or 3, h, w] within 0 to 1.
        knowledge: of the attacker, whose generator draws everything.
        settings: see `ContrastiveSettings`.
        pretraining: of the nets; its number of epochs does not count, as the rounds say how long they are trained.
        views: how views are drawn.
        rounds: of the whole attack, from which the learning rate follows.
        name: of the attack.

    Raises:
        AttackError: for the training of an estimator, samples that are no images, and fewer than two of them.
        ModelError: for a net whose features cannot be told, or are frozen.
    """

    def __init__(
        self,
        noise: SetNoise,
        knowledge: DatasetKnowledge,
        settings: ContrastiveSettings,
        pretraining: PretrainingSettings,
        views: ViewSettings,
        rounds: int,
        name: str,
    ) -> None:
        fits = net_fits(knowledge, name)
        _check_images(noise.own.x, name)
        self._settings, self._generator = settings, knowledge.generator
        steps = rounds * settings.train_steps
        self._nets = [
            _ContrastiveNet(fit, noise.own.x, settings, pretraining, views, steps, knowledge.generator) for fit in fits
        ]

    def take_turns(self, noise: SetNoise, rounds: int) -> None:
        """Rounds of training the nets on the perturbed samples, and of the noise that lowers their loss.

        Args:
            noise: changes.
            rounds: how many.

        Raises:
            ModelError: if a training comes to no finite loss.
        """
        size = self._settings.step_size
        take_turns(
            noise,
            self._nets,
            self._generator,
            train_steps=self._settings.train_steps,
            pgd_steps=self._settings.pgd_steps,
            step_size=noise.ball.epsilon / 10 if size is None else size,
            rounds=rounds,
        )


class _ContrastiveNet:
    """A net in self-supervised training, whose labels do not count."""

    def __init__(
        self,
        fit: NetFit,
        x: Tensor,
        settings: ContrastiveSettings,
        pretraining: PretrainingSettings,
        views: ViewSettings,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        self._generator = generator
        self._batch_size = min(pretraining.pretraining_batch, len(x))

        def make(net: nn.Module, width: int) -> PretextNet:
            return _pretext_net(settings, pretraining, net, width)

        net = fit.learner().model
        with drawing_from(generator, x.device):
            self._training = Pretraining(make, net, x[:1], pretraining, views, steps, generator)

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def step(self, batch: Batch) -> None:
        self._training.step(batch.x)

    def slope(self) -> Slope:
        model, views = self._training.model.eval(), self._training.views

        def slope(x: Tensor, y: Tensor) -> Tensor:  # labels do not count
            with torch.enable_grad():
                at = x.detach().clone().requires_grad_()
                first, second = views(at, self._generator), views(at, self._generator)
                (gradient,) = torch.autograd.grad(model.loss(first, second, through_both=True), at)
            return -gradient

        return slope


def _pretext_net(
    settings: ContrastiveSettings, pretraining: PretrainingSettings, net: nn.Module, width: int
) -> PretextNet:
    hidden, out, temperature = pretraining.hidden, pretraining.projection, settings.temperature
    if settings.method == "simclr":
        return SimCLR(net, width, hidden=hidden, out=out, temperature=temperature or 0.5)
    if settings.method == "moco":
        return MoCo(
            net,
            width,
            hidden=hidden,
            out=out,
            temperature=temperature or 0.2,
            momentum=_KEY_MOMENTUM,
            queue=_QUEUE,
        )
    return SimSiam(net, width, hidden=hidden, out=out)


def _check_images(x: Tensor, name: str) -> None:
    if x.dim() != 4 or x.shape[1] not in (1, 3) or float(x.min()) < 0 or float(x.max()) > 1:
        raise AttackError(
            f"{name}: got samples {list(x.shape[1:])} from {float(x.min()):g} to {float(x.max()):g}, wanted images "
            "[1 or 3, h, w] within 0 to 1"
        )
    if len(x) < 2:
        raise AttackError(f"{name}: got {len(x)} sample to perturb, wanted at least 2, to tell one from the other")
