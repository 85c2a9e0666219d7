"""p-tampering: samples replaced by others with a right label, so that what is trained on them is worse on average."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.attacks.dataset_attack import DatasetBudget, DatasetKnowledge, DatasetPoisonSettings
from taster.core.batch import Batch
from taster.core.fitting import Classifier
from taster.errors import AttackError
from taster.utils.setting_types import Count, PositiveCount
from taster.utils.settings import settings_group

Choice = Literal["gain", "rejection", "loss", "random"]


@settings_group
class TamperingSettings(DatasetPoisonSettings):
    """Settings of the attacks that replace samples by others with a right label.

    With f̂(d_1 … d_i) the expected error of what is trained on the first i samples and on others drawn for the rest:

    Attributes:
        poison_fraction: p, the share of samples that the attacker may replace, at random places. In the papers a coin
            decides for each; with a fixed number the budget binds.
        choice: how a sample is chosen, or whether it is replaced. "rejection": by the coins of the papers, which bias
            the expected error by a known amount. "gain": whatever has the highest f̂. "loss": by the loss of a
            surrogate, which is trained once, as every estimate of f̂ takes training anew. "random": by chance, the
            control.
        draws: samples that are drawn to choose from; with "rejection" the most that are.
        completions: sets that the rest is drawn for, of which f̂ is the mean.
        any_class: whether a sample may be replaced by one of another class, with that one's own label, as in the
            papers. Otherwise the class stays, so that the budget itself sees to right labels and the classes stay as
            frequent.
        target: which one of the attacker's own samples is to be classified wrong. None: the error is that on half of
            his samples.
        target_class: the class that the target is to get.

    Raises:
        AttackError: for a target without its class or the reverse, and the choice "loss" with a target, of which it
            knows nothing.
    """

    choice: Choice = "loss"
    draws: PositiveCount = 10
    completions: PositiveCount = 1
    any_class: bool = False
    target: Count | None = None
    target_class: Count | None = None

    def __post_init__(self) -> None:
        if (self.target is None) != (self.target_class is None):
            raise AttackError(
                f"target: got {self.target} with target_class {self.target_class}, wanted both of them or neither"
            )
        if self.target is not None and self.choice == "loss":
            raise AttackError('choice: got "loss" with a target, wanted "gain" or "rejection", which aim at it')

    @property
    def budget(self) -> DatasetBudget:
        """What may be changed."""
        return DatasetBudget(self.poison_fraction, content="any", labels=self.any_class)

    def wanted(self, knowledge: DatasetKnowledge) -> Batch:
        """The target, under the class that it is to get.

        Raises:
            AttackError: if there is no such sample or class, or it is of that class.
        """
        own, place, label = knowledge.own, self.target or 0, self.target_class or 0
        if place >= len(own) or label >= knowledge.classes:
            raise AttackError(
                f"target: got {place} for class {label}, wanted one of {len(own)} samples and of {knowledge.classes} "
                "classes"
            )
        if int(own.y[place]) == label:
            raise AttackError(f"target_class: got {label}, which is the class of the target; wanted another")
        return Batch(own.x[place : place + 1], torch.full_like(own.y[:1], label))


def resampling_probability(value: float, before: float, p: float) -> float:
    """The probability that p-tampering draws again, after a sample with which f̂ is `value` where it was `before`:

        (1 − f̂(d_1 … d_i)) / (2 − p − (1 − p) f̂(d_1 … d_{i−1}))

    A sample that is tampered with probability p so has its own probability times (1 − p + p f̂_i) / (1 − p + p f̂_{i−1}).
    Over all samples these cancel but for the last and the first, so that a training set has its own probability times
    (1 − p + p f) / (1 − p + p μ), and the mean of f, μ with variance ν, becomes μ + p ν / (1 − p + p μ).

    Source: Mahloujifar, Diochnos and Mahmoody 2018 ("Learning under p-tampering attacks"); the constant was derived
        anew from the bias.
    """
    return (1 - value) / (2 - p - (1 - p) * before)


def reset_probability(value: float, before: float, p: float) -> float:
    """The probability that p-resetting replaces an honest sample by a new draw, whatever that is:

        (1 − f̂(d_1 … d_i)) / (1 + p f̂(d_1 … d_{i−1}))

    In the same way as with `resampling_probability` the mean of f becomes μ + p ν / (1 + p μ).

    Source: as of `resampling_probability`.
    """
    return (1 - value) / (1 + p * before)


@dataclass(frozen=True)
class Tampering:
    """What the attacker computes with.

    Attributes:
        settings: how he chooses.
        knowledge: what he knows. His samples are cut in two at random: one part is drawn from, on the other the error
            is measured.
        samples: number of samples in the training set.
    """

    settings: TamperingSettings
    knowledge: DatasetKnowledge
    samples: int

    @cached_property
    def _halves(self) -> tuple[Batch, Batch]:
        own, generator = self.knowledge.own, self.knowledge.generator
        order = torch.randperm(len(own), generator=generator, device=generator.device).to(own.y.device)
        if self.settings.target is not None:
            order = order[order != self.settings.target]
        if len(order) < 2:
            raise AttackError(f"got {len(own)} own samples, wanted more: half are drawn from, half are measured on")
        return own.select(order[: len(order) // 2]), own.select(order[len(order) // 2 :])

    @property
    def pool(self) -> Batch:
        """The samples that are drawn from."""
        return self._halves[0]

    def draw(self, count: int, label: int) -> Tensor:
        """Places in the pool, different ones, [at most count]: of one class, unless any will do.

        Raises:
            AttackError: if there is none.
        """
        fitting = torch.arange(len(self.pool))
        if not self.settings.any_class:
            fitting = (self.pool.y.cpu() == label).nonzero().flatten()
        if not len(fitting):
            raise AttackError(f"got no sample of class {label} to draw from among {len(self.pool)}, wanted some")
        return fitting[self._order(len(fitting))[:count]]

    def coin(self, probability: float) -> bool:
        """Whether a coin says so."""
        generator = self.knowledge.generator
        return float(torch.rand((), generator=generator, device=generator.device)) < probability

    def error(self, model: Classifier) -> float:
        """What is to be raised, 0 to 1: the mean probability of a wrong class or, with a target, that of its class."""
        measured = self._halves[1] if self.settings.target is None else self.settings.wanted(self.knowledge)
        right = model.outputs(measured.x).softmax(1).gather(1, measured.y[:, None].to(torch.int64)).mean()
        return float(right if self.settings.target is not None else 1 - right)

    def expected_errors(self, prefix: Batch | None, candidates: list[Batch | None]) -> list[float]:
        """f̂ of the prefix and each of the candidates, the rest completed in the same ways for all of them. None is a
        sample that is drawn too."""
        settled = 0 if prefix is None else len(prefix)
        totals = [0.0] * len(candidates)
        for seed in range(self.settings.completions):
            rest = self.pool.select(self._with_repeats(self.samples - settled))
            for place, candidate in enumerate(candidates):
                last = rest.select(slice(0, 1)) if candidate is None else candidate
                parts = [part for part in (prefix, last) if part is not None]
                if settled + 1 < self.samples:
                    parts.append(rest.select(slice(1, None)))
                totals[place] += self.error(self.knowledge.fit(_joined(parts), seed=seed))
        return [total / self.settings.completions for total in totals]

    @cached_property
    def pool_losses(self) -> Tensor:
        """The loss of each sample of the pool by the surrogate, [len(pool)]."""
        return self.losses(self.pool)

    def losses(self, samples: Batch) -> Tensor:
        """The loss of samples by a surrogate that was trained on the half that is not drawn from, [n]."""
        return cross_entropy(self._surrogate.outputs(samples.x), samples.y, reduction="none").cpu()

    @cached_property
    def _surrogate(self) -> Classifier:
        return self.knowledge.fit(self._halves[1], seed=0)

    def _order(self, count: int) -> Tensor:
        generator = self.knowledge.generator
        return torch.randperm(count, generator=generator, device=generator.device).cpu()

    def _with_repeats(self, count: int) -> Tensor:
        generator = self.knowledge.generator
        return torch.randint(len(self.pool), (count,), generator=generator, device=generator.device).cpu()


def _joined(parts: list[Batch]) -> Batch:
    return Batch(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
