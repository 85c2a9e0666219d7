"""Crafting by gradient alignment: PGD that moves samples so that their parameter gradient points where it is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.online_attack import Budget, PerturbationSettings, SampleFn, sample_class
from taster.core.batch import Batch
from taster.core.types import BatchNormMode, Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, LossFn, Normalize, normalized
from taster.errors import AttackError
from taster.perturbations.objectives import ObjectiveName, divergence, margin
from taster.perturbations.pgd import pgd
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy
from taster.utils.settings import settings_group


@settings_group
class CraftingSettings(PerturbationSettings):
    """Settings of the attacks that align gradients.

    Attributes:
        pgd_steps: number of PGD steps, C.
        step_size: α. Default: 2 ε / C (Pang et al. 2021, Table 1).
        objective: loss whose parameter gradient the poison's is taken to be while it is crafted: "cross_entropy", "kl"
            to the predictions on the clean samples, or the "margin" of C&W (Zhu et al. 2023, Table 2).
        pgd_momentum: μ of MIM (Dong et al. 2018). 0 is plain PGD.
        random_start: whether PGD starts at a random point of the ball instead of the clean samples.
        normalize: normalization of the gradients that the poison is aligned with, G_t among them.
        normalize_poisoned: whether to normalize the poison's own gradient as well, so that inner products become
            cosines, as in the published code. Without it PGD can raise the product by making that gradient longer
            instead of turning it.
        batch_norm: batch-norm statistics used while crafting: the recorded ones ("eval") or those of the batch
            ("train"). None: the recorded ones or, in a recipe's federation, those that its clients use.
        validation_size: number of samples in S_val.
        victim_class: draw S_val from this class only, so that the harm falls on it and is hidden in the mean.
        loss_scale: factor on the trigger's loss, "loss scaling" in Pang et al. 2021, Tables 3 to 6.
        evade_reference: earlier model, by label or number of steps back, against which the poison's Memorization
            Discrepancy is kept low (the adaptive attacker of Zhu et al. 2023, Eq. 21). None: no evasion.
        evade_weight: weight of the discrepancy beside the attack's objective.
        surrogate: model to craft on instead of the current one: an earlier one, by label or number of steps back (the
            black-box attacker of Zhu et al. 2023, Table 11), or the label of one of the attacker's own models.

    Raises:
        AttackError: for the objective "kl" without a random start, as its gradient is zero at the clean samples.
    """

    pgd_steps: Annotated[int, Field(ge=1)] = 100
    step_size: Annotated[float, Field(gt=0)] | None = None
    objective: ObjectiveName = "cross_entropy"
    pgd_momentum: Annotated[float, Field(ge=0)] = 0.0
    random_start: bool = False
    normalize: Normalize = "per_tensor"
    normalize_poisoned: bool = True
    batch_norm: BatchNormMode | None = None
    validation_size: Annotated[int, Field(ge=1)] = 100
    victim_class: Annotated[int, Field(ge=0)] | None = None
    loss_scale: Annotated[float, Field(gt=0)] = 1.0
    evade_reference: str | Annotated[int, Field(ge=1)] | None = None
    evade_weight: Annotated[float, Field(ge=0)] = 1.0
    surrogate: str | Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.objective == "kl" and not self.random_start:
            raise AttackError(
                "objective: got 'kl' without a random start, where its gradient is zero; wanted random_start = true"
            )


def model_to_craft_on(surrogate: str | int | None, surrogates: Mapping[str, View], view: View) -> View:
    """The model that poison is crafted by.

    Args:
        surrogate: None for the present model; the label of one of the attacker's own; an earlier model, by label or
            number of steps back.
        surrogates: the attacker's own models, by label.
        view: of the present model.

    Raises:
        SnapshotError: if the learner keeps no such earlier model.
    """
    if isinstance(surrogate, str) and surrogate in surrogates:
        return surrogates[surrogate]
    return view if surrogate is None else view.steps_ago(surrogate)


@dataclass(frozen=True)
class Crafting:
    """Crafts poison for one attack.

    Attributes:
        settings: how.
        draw_validation: draws S_val from the attacker's own samples.
        generator: draws which samples are poisoned, and random starts.
        derivatives: computes the derivatives.
        surrogates: the attacker's own models, by label.
    """

    settings: CraftingSettings
    draw_validation: SampleFn
    generator: torch.Generator
    derivatives: Derivatives = field(default_factory=Derivatives)
    surrogates: Mapping[str, View] = field(default_factory=dict)

    @cached_property
    def budget(self) -> Budget:
        """What the attack may change."""
        return self.settings.budget(max_loss_weight=self.settings.loss_scale)

    @property
    def step_size(self) -> float:
        """α."""
        settings = self.settings
        return 2 * settings.epsilon / settings.pgd_steps if settings.step_size is None else settings.step_size

    @property
    def batch_norm(self) -> BatchNormMode:
        """The batch-norm statistics used."""
        return self.settings.batch_norm or "eval"

    def draw_s_val(self) -> Batch:
        """S_val.

        Raises:
            AttackError: if none of the samples is of the victim class.
        """
        return sample_class(self.draw_validation, self.settings.victim_class)(self.settings.validation_size)

    def draw_mask(self, batch: Batch) -> Tensor:
        """Which samples of a batch to poison, [n]."""
        return self.budget.draw_mask(len(batch), self.generator).to(batch.x.device)

    def crafting_view(self, view: View) -> View:
        """The model to craft on: the current one, or the surrogate."""
        return model_to_craft_on(self.settings.surrogate, self.surrogates, view)

    def loss(self, view: View) -> LossFn:
        """L as a function of parameters, samples and labels."""
        return lambda params, x, y: view.loss(x, y, params=params, batch_norm=self.batch_norm)

    def gradient(self, view: View, batch: Batch) -> Tensors:
        """∇_θ L(S; θ_t), not normalized."""
        return self.derivatives.gradient(self.loss(view), view.trainable, batch)

    def normalized_gradient(self, view: View, batch: Batch) -> Tensors:
        """∇_θ L(S; θ_t), normalized."""
        return normalized(self.gradient(view, batch), self.settings.normalize)

    def align(
        self,
        clean: Batch,
        view: View,
        terms: Sequence[tuple[float, Tensors]],
        mask: Tensor,
        init: Tensor | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Raises Σᵢ wᵢ ⟨∇_θ L(S; θ_t), vᵢ⟩ by PGD over the masked samples of S.

        Args:
            clean: S.
            view: θ_t.
            terms: the pairs (wᵢ, vᵢ).
            mask: samples that may move, [n].
            init: where PGD starts. Default: see `init`.
            steps: number of PGD steps. Default: `settings.pgd_steps`.

        Returns:
            all samples of S, moved or not.
        """
        settings = self.settings
        loss, labels = self._objective(clean, view)
        derivative = self.derivatives.mixed(
            loss, view.trainable, terms, settings.normalize if settings.normalize_poisoned else "none"
        )

        still = ~mask.reshape(-1, *[1] * (clean.x.dim() - 1))

        def gradient(x: Tensor) -> Tensor:
            found = derivative(x, labels)
            if self._discrepancy is not None:
                found = found - self._discrepancy_gradient(self._discrepancy, x, view)
            return found.masked_fill(still, 0)

        start = self.init(clean, mask) if init is None else init
        return self.derivatives.without_waiting(
            lambda: pgd(
                gradient,
                clean.x,
                self.budget.ball,
                steps=settings.pgd_steps if steps is None else steps,
                step_size=self.step_size,
                init=start,
                momentum=settings.pgd_momentum,
            )
        )

    def oppose(self, clean: Batch, view: View, gradient: Tensors, mask: Tensor) -> Tensor:
        """Lowers ⟨∇_θ L(S; θ_t), v⟩ by PGD over the masked samples of S (Pang et al. 2021, Eq. 6)."""
        return self.align(clean, view, [(-1.0, gradient)], mask)

    def init(self, clean: Batch, mask: Tensor) -> Tensor:
        """Where PGD starts: the clean samples, or a random point of the ball for the masked ones."""
        own: Tensor = clean.x
        if not self.settings.random_start:
            return own
        x = self.budget.ball.random(clean.x, self.generator)
        x[~mask] = clean.x[~mask]
        return x

    def _objective(self, clean: Batch, view: View) -> tuple[LossFn, Tensor]:
        """The loss whose gradient is aligned, and its labels: for "kl" the logits of the clean samples."""
        name = self.settings.objective
        if name == "cross_entropy":
            return self.loss(view), clean.y

        def logits(params: Tensors, x: Tensor) -> Tensor:
            output: Tensor = view.forward(x, params=params, batch_norm=self.batch_norm)
            return output

        if name == "margin":
            return lambda params, x, y: margin(logits(params, x), y).mean(), clean.y
        with torch.no_grad():
            reference = logits({}, clean.x)
        return lambda params, x, y: divergence(y, logits(params, x)).mean(), reference

    @cached_property
    def _discrepancy(self) -> MemorizationDiscrepancy | None:
        reference = self.settings.evade_reference
        return None if reference is None else MemorizationDiscrepancy(reference)

    def _discrepancy_gradient(self, score: MemorizationDiscrepancy, x: Tensor, view: View) -> Tensor:
        """Weight times ∇ₓ of the batch's mean Memorization Discrepancy (Zhu et al. 2023, Eq. 21)."""
        leaf = x.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(self.settings.evade_weight * score.of_samples(leaf, view).mean(), leaf)
        return found
