"""An attack by clients of a federation: what they send instead of their honest updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.step_record import Phase
from taster.core.types import BatchNormMode
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.errors import AttackError
from taster.perturbations.pgd import Norm
from taster.utils.settings import settings_group


@dataclass(frozen=True, eq=False)
class RoundKnowledge:
    """What the attacker knows of a round: everything.

    Attributes:
        values: [m, d], the honest updates of all clients, the attacker's included. Read-only.
        weights: [m], as claimed by the clients.
        malicious: [m], mask of the attacker's clients, of which there is at least one.
        batch_norm: batch-norm statistics that the clients' updates were computed with: the server's recorded ones
            ("eval"), or those of all the round's samples together ("train").
    """

    values: Tensor
    weights: Tensor
    malicious: Tensor
    batch_norm: BatchNormMode = "eval"

    @property
    def own(self) -> Tensor:
        """Honest updates of the attacker's clients, [k, d]."""
        return self.values[self.malicious]

    @property
    def others(self) -> Tensor:
        """Updates of the other clients, [m − k, d]; the attacker's own if there are no others."""
        return self.values if bool(self.malicious.all()) else self.values[~self.malicious]

    def mean(self) -> Tensor:
        """Weighted mean of the honest updates of all clients, [d]."""
        return (self.weights / self.weights.sum()) @ self.values


UpdatePoisonFn = Callable[[RoundKnowledge, View], Tensor]
"""What the attacker's clients send, [k, d]. It need not lie within the budget: `UpdateAttack.poison` projects it."""


@dataclass(frozen=True)
class UpdateBudget:
    """Bound on the norm of an update: ‖A(Gₙ)‖ₚ ≤ η (Pang et al. 2021, Section 3.3, "Capacity of poisoners").

    Attributes:
        max_norm: η. None: no bound.
        norm: p, "l2" or "linf".
    """

    max_norm: float | None = None
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        if self.max_norm is not None and not 0 <= self.max_norm < float("inf"):
            raise AttackError(f"max_norm: got {self.max_norm}, wanted a finite number of at least 0, or None")

    def project(self, rows: Tensor) -> Tensor:
        """Projects rows [k, d] into the bound. NaN becomes 0 if there is a bound."""
        if self.max_norm is None:
            return rows
        rows = torch.nan_to_num(rows)
        if self.norm == "linf":
            return rows.clamp(-self.max_norm, self.max_norm)
        # Divided by the largest number first, as the square of a huge one is infinite.
        largest = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        sizes = torch.linalg.vector_norm(rows / largest, dim=1, keepdim=True) * largest
        return torch.where(sizes > self.max_norm, rows / largest * (self.max_norm / (sizes / largest)), rows)


@settings_group
class UpdateSettings:
    """Settings of the attacks that choose the aggregate and distribute it over the attacker's clients.

    Attributes:
        max_norm: largest norm of a sent update, η. None: no bound.
        norm: norm of that bound.
        loss_scale: factor on the trigger update ("loss scaling" in Pang et al. 2021, Tables 3 to 5).
        noise_scale: norm of the random vectors Mₙ that keep clients from sending the same, relative to the norm of the
            update that they are added to. The paper gives none.
        server_clip_norm: norm to which the server is known to clip each update before it aggregates (threat model C.3).
            None: the server does not.
        server_clip_norm_type: norm of that clipping.
    """

    max_norm: Annotated[float, Field(gt=0)] | None = None
    norm: Norm = "l2"
    loss_scale: Annotated[float, Field(gt=0)] = 1.0
    noise_scale: Annotated[float, Field(ge=0)] = 0.1
    server_clip_norm: Annotated[float, Field(gt=0)] | None = None
    server_clip_norm_type: Norm = "l2"

    @property
    def budget(self) -> UpdateBudget:
        """The bound on what a client sends."""
        return UpdateBudget(self.max_norm, self.norm)


@dataclass(frozen=True)
class UpdateAttack:
    """An attack on updates over time. Either part may be None, which leaves that part honest.

    Attributes:
        budget: bounds both parts.
        accumulate: applied in each round of the accumulative phase.
        trigger: applied in the trigger's round.
        derivatives: computes the derivatives of both parts. None: the attack needs none.
        needs_only_own_update: whether a single client that knows only its own honest update can carry it out.
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
        """An attack that does the same in both phases."""
        return cls(budget or UpdateBudget(), attack, attack, needs_only_own_update=needs_only_own_update)

    def poison(self, knowledge: RoundKnowledge, view: View, phase: Phase) -> Tensor | None:
        """What the attacker's clients send in this phase, [k, d], projected into the budget; None if it is honest.

        Raises:
            AttackError: if the attack returned something of another shape.
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
