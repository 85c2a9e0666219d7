"""Moving samples so that their gradient points where an attacker wants it: what the gradient attacks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from taster.attacks.campaign import Budget
from taster.calculus import Normalise, gradient, mixed_derivative, normalised
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
    """

    budget: Budget
    steps: int
    step_size: float | None
    normalise: Normalise
    normalise_poisoned: bool
    batch_norm: BatchNormMode

    @property
    def alpha(self) -> float:
        """α."""
        return 2 * self.budget.ball.epsilon / self.steps if self.step_size is None else self.step_size

    def loss(self, view: View, batch: Batch, params: Tensors, x: Tensor | None = None) -> Tensor:
        """L(S; θ), with other samples in place of the batch's own where given."""
        return view.loss(batch.x if x is None else x, batch.y, params=params, batch_norm=self.batch_norm)

    def gradient(self, view: View, batch: Batch) -> Tensors:
        """∇_θ L(S; θ_t), not normalised."""
        return gradient(lambda params: self.loss(view, batch, params), view.trainable)

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
        params = view.trainable
        how: Normalise = self.normalise if self.normalise_poisoned else "none"

        def ascent(x: Tensor) -> Tensor:
            slope = mixed_derivative(lambda p, x: self.loss(view, clean, p, x), params, x, terms, how)
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
