"""Moving samples so that their gradient points where an attacker wants it: what the gradient attacks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taster.attacks.online_attack import Budget
from taster.core.functional_model import BatchNormMode
from taster.core.types import Batch, Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, LossFn, Normalize, normalized
from taster.errors import AttackError
from taster.perturbations.objectives import ObjectiveName, divergence, margin
from taster.perturbations.pgd import pgd
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy


@dataclass(frozen=True)
class PGDOptions:
    """How PGD goes.

    Attributes:
        objective: the loss whose gradient the poison's is taken to be while it is crafted.
        momentum: μ of MIM; 0 is without.
        random_start: draws where it begins; None begins at the clean samples.

    Raises:
        AttackError: for "kl" without a random start, as its gradient is zero at the clean samples.
    """

    objective: ObjectiveName = "cross_entropy"
    momentum: float = 0.0
    random_start: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.objective == "kl" and self.random_start is None:
            raise AttackError(
                "objective: got 'kl' without a random start, where its gradient is zero; wanted random_start = true"
            )


@dataclass(frozen=True)
class Evasion:
    """Keeps the poison's Memorization Discrepancy low while it is crafted.

    Attributes:
        score: the discrepancy.
        weight: of its mean over the batch, beside the attack's own objective.

    Source: Zhu et al. 2023, Eq. 21.
    """

    score: MemorizationDiscrepancy
    weight: float

    @classmethod
    def from_settings(cls, reference_model: str | int | None, weight: float) -> Evasion | None:
        """Of the model to compare with, see `MemorizationDiscrepancy`; None for none."""
        return None if reference_model is None else cls(MemorizationDiscrepancy(reference_model), weight)

    def gradient(self, x: Tensor, view: View) -> Tensor:
        """weight · ∇ₓ of the mean discrepancy, of the shape of x."""
        leaf = x.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(self.weight * self.score.of_samples(leaf, view).mean(), leaf)
        return found


@dataclass(frozen=True)
class Crafting:
    """How poison is made.

    Attributes:
        budget: ball and ratio.
        steps: PGD steps, C.
        step_size: α; None is 2 ε / C (Pang et al. 2021, Table 1).
        normalize: of the gradients that poison is aligned with.
        normalize_poisoned: of the poison's own gradient too, which turns inner products into cosines.
        batch_norm: statistics used: the recorded ones, or those of the batch.
        derivatives: how they are computed.
        pgd: start, momentum and objective.
        evasion: what the poison is to keep low besides; None for nothing.
        surrogate: the model crafted on: one of `surrogates`, or an earlier one of the learner's, see
            `taster.View.earlier`; None is the learner as it is.
        surrogates: models of the attacker's own, by label.
    """

    budget: Budget
    steps: int
    step_size: float | None
    normalize: Normalize
    normalize_poisoned: bool
    batch_norm: BatchNormMode
    derivatives: Derivatives
    pgd: PGDOptions = PGDOptions()
    evasion: Evasion | None = None
    surrogate: str | int | None = None
    surrogates: Mapping[str, View] = field(default_factory=dict)

    @property
    def alpha(self) -> float:
        """α."""
        return 2 * self.budget.ball.epsilon / self.steps if self.step_size is None else self.step_size

    def loss(self, view: View) -> LossFn:
        """L, at the moment of the view but for the parameters."""
        return lambda params, x, y: view.loss(x, y, params=params, batch_norm=self.batch_norm)

    def crafting_view(self, view: View) -> View:
        """What is crafted on: the learner as it is, or the surrogate."""
        if isinstance(self.surrogate, str) and self.surrogate in self.surrogates:
            return self.surrogates[self.surrogate]
        return view if self.surrogate is None else view.steps_ago(self.surrogate)

    def gradient(self, view: View, batch: Batch) -> Tensors:
        """∇_θ L(S; θ_t), not normalized."""
        return self.derivatives.gradient(self.loss(view), view.trainable, batch)

    def normalized_gradient(self, view: View, batch: Batch) -> Tensors:
        """∇_θ L(S; θ_t), normalized."""
        return normalized(self.gradient(view, batch), self.normalize)

    def align(
        self,
        clean: Batch,
        view: View,
        terms: Sequence[tuple[float, Tensors]],
        mask: Tensor,
        init: Tensor | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """PGD that raises Σᵢ wᵢ ⟨∇_θ L(S; θ_t), vᵢ⟩ by moving the chosen samples of S; returns all its samples."""
        how: Normalize = self.normalize if self.normalize_poisoned else "none"
        pulled, labels = self._objective(clean, view)
        derivative = self.derivatives.mixed(pulled, view.trainable, terms, how)

        def ascent(x: Tensor) -> Tensor:
            slope = derivative(x, labels)
            if self.evasion is not None:
                slope = slope - self.evasion.gradient(x, view)
            slope[~mask] = 0
            return slope

        return pgd(
            ascent,
            clean.x,
            self.budget.ball,
            steps=self.steps if steps is None else steps,
            step_size=self.alpha,
            init=self.init(clean, mask) if init is None else init,
            momentum=self.pgd.momentum,
        )

    def init(self, clean: Batch, mask: Tensor) -> Tensor:
        """Where PGD begins: at the clean samples, or a random start for the chosen ones."""
        if self.pgd.random_start is None:
            return clean.x
        x = self.budget.ball.random(clean.x, self.pgd.random_start)
        x[~mask] = clean.x[~mask]
        return x

    def _objective(self, clean: Batch, view: View) -> tuple[LossFn, Tensor]:
        """The loss whose gradient the poison's is, and the labels that it takes: for KL the clean samples' logits."""
        name = self.pgd.objective
        if name == "cross_entropy":
            return self.loss(view), clean.y

        def logits(params: Tensors, x: Tensor) -> Tensor:
            return view.forward(x, params=params, batch_norm=self.batch_norm)

        if name == "margin":
            return lambda params, x, y: margin(logits(params, x), y).mean(), clean.y
        with torch.no_grad():
            reference = logits({}, clean.x)
        return lambda params, x, y: divergence(y, logits(params, x)).mean(), reference

    def oppose(self, clean: Batch, view: View, against: Tensors, mask: Tensor, init: Tensor | None = None) -> Tensor:
        """PGD that lowers ⟨∇_θ L(S; θ_t), v⟩ by moving the chosen samples of S (Pang et al. 2021, Eq. 6)."""
        return self.align(clean, view, [(-1.0, against)], mask, init)
