"""An attack by clients of a federation: what they send in the place of their updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taster.core.types import Phase
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.errors import AttackError
from taster.perturbations.pgd import Norm


@dataclass(frozen=True, eq=False)
class RoundKnowledge:
    """What the attacker's clients know of a round, which is all of it.

    Attributes:
        values: [m, d], what every client would send honestly, the attacker's own too; not to be written to.
        weights: [m], as claimed.
        malicious: [m], which of them are the attacker's; at least one is.
    """

    values: Tensor
    weights: Tensor
    malicious: Tensor

    @property
    def own(self) -> Tensor:
        """What the attacker's clients would send honestly, [k, d]."""
        return self.values[self.malicious]

    @property
    def others(self) -> Tensor:
        """What the others send, [m − k, d]; the attacker's own where there are no others."""
        return self.values if bool(self.malicious.all()) else self.values[~self.malicious]

    def mean(self) -> Tensor:
        """The weighted mean of what all would send honestly, [d]."""
        return (self.weights / self.weights.sum()) @ self.values


UpdatePoisonFn = Callable[[RoundKnowledge, View], Tensor]
"""What the attacker's clients send, [k, d]. May return anything of that shape: whoever calls it through an
`UpdateAttack` gets it projected back into the budget."""


@dataclass(frozen=True)
class UpdateBudget:
    """How long an update may be: ‖A(Gₙ)‖ₚ ≤ η (Pang et al. 2021, Section 3.3, "Capacity of poisoners").

    Attributes:
        max_norm: η; None for no bound.
        norm: p, "l2" or "linf".
    """

    max_norm: float | None = None
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        if self.max_norm is not None and not 0 <= self.max_norm < float("inf"):
            raise AttackError(f"max_norm: got {self.max_norm}, wanted a finite number of at least 0, or None")

    def project(self, rows: Tensor) -> Tensor:
        """The nearest rows [k, d] within the bound; numbers that are none become 0 where there is one."""
        if self.max_norm is None:
            return rows
        rows = torch.nan_to_num(rows)
        if self.norm == "linf":
            return rows.clamp(-self.max_norm, self.max_norm)
        # Divided by the largest number first, as the square of a huge one is infinite.
        largest = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        sizes = torch.linalg.vector_norm(rows / largest, dim=1, keepdim=True) * largest
        return torch.where(sizes > self.max_norm, rows / largest * (self.max_norm / (sizes / largest)), rows)


@dataclass(frozen=True)
class UpdateAttack:
    """An attack on updates over time. Either part may be None, which leaves that part honest.

    Attributes:
        budget: binds both parts.
        accumulate: applied in each round of the accumulative phase.
        trigger: applied in the round of the trigger.
        derivatives: what both compute with; None for an attack that needs none.
        needs_only_own_update: whether one client can do it that knows nothing but its own honest update.
    """

    budget: UpdateBudget = field(default_factory=UpdateBudget)
    accumulate: UpdatePoisonFn | None = None
    trigger: UpdatePoisonFn | None = None
    derivatives: Derivatives | None = None
    needs_only_own_update: bool = False

    @classmethod
    def always(
        cls, attack: UpdatePoisonFn, budget: UpdateBudget | None = None, *, needs_only_own_update: bool = False
    ) -> UpdateAttack:
        """The same in both phases."""
        return cls(budget or UpdateBudget(), attack, attack, needs_only_own_update=needs_only_own_update)

    def poison(self, knowledge: RoundKnowledge, view: View, phase: Phase) -> Tensor | None:
        """What the attacker's clients send in this phase, [k, d], within the budget; None where they are honest.

        Raises:
            AttackError: when the attack returned something of another shape.
        """
        attack = {Phase.ACCUMULATE: self.accumulate, Phase.TRIGGER: self.trigger}.get(phase)
        if attack is None:
            return None
        rows = attack(knowledge, view)
        wanted = [int(knowledge.malicious.sum()), knowledge.values.shape[1]]
        if not isinstance(rows, Tensor) or list(rows.shape) != wanted or not rows.is_floating_point():
            got = f"{list(rows.shape)} of {rows.dtype}" if isinstance(rows, Tensor) else type(rows).__name__
            raise AttackError(f"the attack returned {got}, wanted updates {wanted}, a row for each of its clients")
        return self.budget.project(rows.detach().to(knowledge.values))
