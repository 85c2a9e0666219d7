"""Moving samples so that their gradient points where an attacker wants it: what the gradient attacks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from taster.attacks.campaign import Budget
from taster.calculus import Derivatives, LossAt, Normalise, normalised
from taster.functional import BatchNormMode
from taster.pgd import pgd
from taster.types import Batch, Tensors
from taster.view import View


@dataclass(frozen=True)
class Crafting:
    """How poison is made.

    Attributes:
        budget: ball and ratio.
        steps: PGD steps, C.
        step_size: α; None is 2 ε / C (Pang et al. 2021, Table 1).
        normalise: of the gradients that poison is aligned with.
        normalise_poisoned: of the poison's own gradient too, which turns inner products into cosines.
        batch_norm: statistics used: the recorded ones, or those of the batch.
        derivatives: how they are computed.
    """

    budget: Budget
    steps: int
    step_size: float | None
    normalise: Normalise
    normalise_poisoned: bool
    batch_norm: BatchNormMode
    derivatives: Derivatives

    @property
    def alpha(self) -> float:
        """α."""
        return 2 * self.budget.ball.epsilon / self.steps if self.step_size is None else self.step_size

    def loss(self, view: View) -> LossAt:
        """L, at the moment of the view but for the parameters."""
        return lambda params, x, y: view.loss(x, y, params=params, batch_norm=self.batch_norm)

    def gradient(self, view: View, batch: Batch) -> Tensors:
        """∇_θ L(S; θ_t), not normalised."""
        return self.derivatives.gradient(self.loss(view), view.trainable, batch)

    def target(self, view: View, batch: Batch) -> Tensors:
        """∇_θ L(S; θ_t), normalised."""
        return normalised(self.gradient(view, batch), self.normalise)

    def align(
        self,
        clean: Batch,
        view: View,
        terms: Sequence[tuple[float, Tensors]],
        chosen: Tensor,
        start: Tensor | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """PGD that raises Σᵢ wᵢ ⟨∇_θ L(S; θ_t), vᵢ⟩ by moving the chosen samples of S; returns all its samples."""
        how: Normalise = self.normalise if self.normalise_poisoned else "none"
        derivative = self.derivatives.mixed(self.loss(view), view.trainable, terms, how)

        def ascent(x: Tensor) -> Tensor:
            slope = derivative(x, clean.y)
            slope[~chosen] = 0
            return slope

        return pgd(
            ascent,
            clean.x,
            self.budget.ball,
            steps=self.steps if steps is None else steps,
            step_size=self.alpha,
            start=start,
        )

    def oppose(self, clean: Batch, view: View, against: Tensors, chosen: Tensor, start: Tensor | None = None) -> Tensor:
        """PGD that lowers ⟨∇_θ L(S; θ_t), v⟩ by moving the chosen samples of S (Pang et al. 2021, Eq. 6)."""
        return self.align(clean, view, [(-1.0, against)], chosen, start)
