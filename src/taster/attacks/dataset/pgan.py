"""pGAN: poison from a generator that has to please a discriminator and to displease the classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.surrogate import Surrogate, net_fits
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.errors import AttackError
from taster.models import mlp
from taster.utils.seeds import drawing_from
from taster.utils.setting_types import Count, PositiveCount, PositiveFloat, Quantile
from taster.utils.settings import settings_group, validate_settings

_NAME = "pgan"


@settings_group
class PGANSettings(DatasetPoisonSettings):
    """The game of generator, discriminator and classifier.

    Attributes:
        poison_fraction: inserted samples over the samples of the clean set.
        target_class: y_p, the label of all poison.
        alpha: α, the weight of looking like samples of y_p; 1 − α is that of the classifier's loss. 1: an ordinary GAN.
        mixture: λ, the share of generated samples in the batches that the classifier learns from. None: the share of
            the poison in the poisoned set.
        steps: of each of the three.
        game_batch_size: genuine and generated samples of y_p in a step.
        latent: dimensions of the generator's input.
        hidden: widths of the hidden layers of generator and discriminator.
        gan_learning_rate: of Adam, for generator and discriminator.
    """

    target_class: Count = 0
    alpha: Quantile = 0.5
    mixture: Annotated[float, Field(gt=0, lt=1)] | None = None
    steps: PositiveCount = 2000
    game_batch_size: PositiveCount = 64
    latent: PositiveCount = 32
    hidden: list[PositiveCount] | None = None
    gan_learning_rate: PositiveFloat = 1e-3

    @property
    def share(self) -> float:
        """λ."""
        return self.poison_fraction / (1 + self.poison_fraction) if self.mixture is None else self.mixture

    @property
    def widths(self) -> list[int]:
        """Of the hidden layers."""
        return [128, 128] if self.hidden is None else self.hidden


class SampleGenerator(nn.Module):
    """Maps standard normal numbers [n, latent] to samples in the range of the data, by fully connected layers.

    Args:
        shape: of a sample.
        latent: dimensions of the input.
        hidden: widths of the hidden layers.
        low, high: the range of the data.
    """

    def __init__(self, shape: Sequence[int], latent: int, hidden: list[int], low: float, high: float) -> None:
        super().__init__()
        self.layers = mlp((latent,), math.prod(shape), hidden=hidden)
        self._shape, self._low, self._high = tuple(shape), low, high

    def forward(self, z: Tensor) -> Tensor:
        """Inputs [n, latent] to samples [n, ...]."""
        made: Tensor = self._low + (self._high - self._low) * self.layers(z).sigmoid()
        return made.reshape(len(z), *self._shape)


@threat("indiscriminate", "availability", "grey box", "individual", "generative", "before training")
@validate_settings
def pgan(*, game: PGANSettings = PGANSettings()) -> DatasetAttack:
    """Inserts generated samples under one label, which look like its class and raise the loss of the classifier.

        min over G of max over D, C of  α V(D, G) + (1 − α) W(C, G)
        V = E log D(x) + E log(1 − D(G(z)))                    x: genuine samples of y_p
        W = −λ E CE(C(G(z)), y_p) − (1 − λ) E CE(C(x), y)      x, y: samples of all classes

    The three take a step in turn: D on genuine and generated samples of y_p; C, a net that is trained as the victim's,
    on batches with a share λ of generated samples; G by α and 1 − α. All of it on the attacker's own samples
    (`DatasetKnowledge.own`), from which the poison is the generator's last. With α = 0 the poison comes from wherever C
    finds y_p least likely, other classes say, and with α = 1 from y_p's own class.

    Args:
        game: see `taster.attacks.dataset.pgan.PGANSettings`.

    Raises (when it poisons):
        AttackError: for the training of an estimator or one that diverges, a class that there is not, and own samples
            that are all of y_p, or none.

    Source: Muñoz-González et al. 2019 ("Poisoning attacks with generative adversarial nets"). G here raises log D(G(z))
        in place of lowering log(1 − D(G(z))), as is usual since Goodfellow et al. 2014; nets are fully connected.
    """
    budget = DatasetBudget(game.poison_fraction, insert=True, content="any", labels=True)

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        if game.target_class >= knowledge.classes:
            raise AttackError(f"target_class: got {game.target_class}, wanted 0 to {knowledge.classes - 1}")
        inside = int((knowledge.own.y == game.target_class).sum())
        if inside in (0, len(knowledge.own)):
            raise AttackError(
                f"{_NAME}: got {inside} own samples of class {game.target_class} among {len(knowledge.own)}, wanted "
                "some of it and some of others (split.validation)"
            )
        generator = play(game, knowledge)
        count = budget.max_poisoned(len(clean))
        with torch.no_grad():
            made = generator(_latent(count, game, knowledge.generator, clean.x))
        labels = torch.full((count,), game.target_class, dtype=clean.y.dtype, device=clean.y.device)
        return Poison(Batch(torch.cat([clean.x, made.to(clean.x)]), torch.cat([clean.y, labels])))

    return DatasetAttack(budget, attack)


def play(game: PGANSettings, knowledge: DatasetKnowledge) -> SampleGenerator:
    """Trains the three nets and returns the generator.

    Args:
        game: see `PGANSettings`.
        knowledge: of the attacker.

    Raises:
        AttackError: see `pgan`.
    """
    own, draws = knowledge.own, knowledge.generator
    genuine = own.select((own.y == game.target_class).nonzero().flatten())
    shape, size = own.x.shape[1:], game.game_batch_size
    with drawing_from(draws, own.x.device):
        generator = SampleGenerator(shape, game.latent, game.widths, knowledge.low, knowledge.high).to(own.x)
        judge = mlp(tuple(shape), 1, hidden=game.widths).to(own.x)
    makes, judges = (
        torch.optim.Adam(net.parameters(), game.gan_learning_rate, betas=(0.5, 0.999)) for net in (generator, judge)
    )
    victims = [Surrogate(fit, len(own), 0, draws) for fit in net_fits(knowledge, _NAME)]
    labels = torch.full((size,), game.target_class, dtype=own.y.dtype, device=own.y.device)
    for _ in range(game.steps):
        made = generator(_latent(size, game, draws, own.x))
        judges.zero_grad()
        torch.autograd.backward(judgement(judge(_some(genuine, size, draws).x), judge(made.detach())))
        judges.step()
        for victim in victims:
            victim.step(_mixed(own, made.detach(), labels, victim.fit.settings.batch_size, game.share, draws))
        makes.zero_grad()
        torch.autograd.backward(reward(game.alpha, judge(made), [victim.view for victim in victims], made, labels))
        makes.step()
    return generator


def judgement(genuine: Tensor, made: Tensor) -> Tensor:
    """What the discriminator lowers: −V, of its outputs (log-odds of being genuine) [n, 1] each."""
    return softplus(-genuine).mean() + softplus(made).mean()


def reward(alpha: float, judged: Tensor, views: Sequence[View], made: Tensor, labels: Tensor) -> Tensor:
    """What the generator lowers: −α log D(G(z)) − (1 − α) CE(C(G(z)), y_p), the latter a mean over classifiers.

    Args:
        alpha: α.
        judged: the discriminator's outputs, log-odds of being genuine, [n, 1].
        views: of the classifiers.
        made: generated samples, [n, ...].
        labels: y_p, int64 [n].
    """
    harm = torch.stack([view.loss(made, labels) for view in views]).mean()
    return alpha * softplus(-judged).mean() - (1 - alpha) * harm


def _latent(count: int, game: PGANSettings, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(count, game.latent, generator=generator, device=generator.device).to(like)


def _some(samples: Batch, count: int, generator: torch.Generator) -> Batch:
    """Drawn with replacement."""
    places = torch.randint(len(samples), (count,), generator=generator, device=generator.device)
    return samples.select(places.to(samples.x.device))


def _mixed(own: Batch, made: Tensor, labels: Tensor, size: int, share: float, generator: torch.Generator) -> Batch:
    """A batch with a share of generated samples, at least one and at most all of them, and own ones besides."""
    count = min(len(made), max(1, round(share * size)))
    real = _some(own, max(1, size - count), generator)
    return Batch(torch.cat([real.x, made[:count]]), torch.cat([real.y, labels[:count]]))
