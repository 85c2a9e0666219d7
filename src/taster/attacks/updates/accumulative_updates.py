"""The accumulative attack in federated learning: updates that keep the accuracy until a trigger strikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.online_attack import Draw
from taster.attacks.update_attack import Collusion, UpdateBudget, UpdateCampaign
from taster.attacks.updates.recovered_offset import recovered_offset, spread_out
from taster.client_gradients import ClientGradients
from taster.core.functional_model import BatchNormMode
from taster.core.param_vectors import flatten, unflatten
from taster.core.types import Batch
from taster.core.view import View
from taster.derivatives import Derivatives, LossAt, Normalise, normalised
from taster.derivatives.algebra import pull
from taster.errors import AttackError
from taster.perturbations.pgd import Norm
from taster.utils.settings import checked

TriggerUpdate = Literal["clean", "reversed", "optimised"]


@checked
def accumulative_updates(
    trigger: Batch,
    validation: Draw,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    *,
    accumulation_weight: Annotated[float, Field(ge=0)] = 0.02,
    trigger_update: TriggerUpdate = "optimised",
    trigger_step: Annotated[float, Field(ge=0)] = 0.1,
    eta: Annotated[float, Field(gt=0)] | None = None,
    norm: Norm = "l2",
    loss_scale: Annotated[float, Field(gt=0)] = 1.0,
    spread: Annotated[float, Field(ge=0)] = 0.1,
    honest_term: bool = True,
    clip_before: Annotated[float, Field(gt=0)] | None = None,
    clip_norm: Norm = "l2",
    resample_validation: bool = False,
    validation_size: Annotated[int, Field(ge=1)] = 100,
    normalise: Normalise = "global",
    batch_norm: BatchNormMode = "eval",
) -> UpdateCampaign:
    """Updates that follow the honest ones and make the model sensitive to the trigger's.

        Hₜ = mean of Gₙ + λ ∇_θ ⟨∇_θ L(S_val; θₜ), mean of P(Gₙ)⟩
        A(Gₙ) = proj_η(Mₙ + Hₜ), Σ Mₙ = 0
        P(Gₙ) ← proj_η(P(Gₙ) − α ∇_θ L(Sₙ; θₜ)), from proj_η(−∇_θ L(Sₙ; θ₀)), Sₙ the share of S_T that a client has

    The paper adds updates up where the mean is taken here; so Hₜ is the sum over the number of clients, and λ is in the
    units of the mean. With some of the clients, those send what makes the mean of all the same (`recovered_offset`).

    Args:
        trigger: the clean trigger batch S_T, of which each client of the round has a share, in order.
        validation: draws S_val.
        generator: draws the Mₙ.
        derivatives: how they are computed; by default held differences in float32.
        accumulation_weight: λ.
        trigger_update: "clean": clients strike with the gradient of S_T as it is; "reversed": with P(G) as it is at the
            beginning; "optimised": with P(G) as it has become.
        trigger_step: α.
        eta: η, the greatest length of what a client sends; None for no bound.
        norm: of η.
        loss_scale: factor on the trigger update, before it is projected.
        spread: length of the Mₙ over that of what they are added to; the paper gives none.
        honest_term: false leaves the mean of Gₙ out of Hₜ, as the published code does.
        clip_before: the bound to which the attacker knows the server to scale each update (threat model C.3).
        clip_norm: of that bound.
        resample_validation: draws S_val anew each round; else it is drawn once.
        validation_size: samples in S_val.
        normalise: of the gradient of S_val and of P; "global" makes their product a cosine.
        batch_norm: statistics used while crafting: the recorded ones, or those of the batch.

    Raises (when called):
        AttackError: when the trigger has fewer samples than a round has clients.

    Source: Pang et al. 2021, Algorithm 2, Eq. 12 to 14.
    """
    budget = UpdateBudget(eta, norm)
    attack = AccumulativeUpdates(
        trigger, validation, generator, derivatives or Derivatives(), budget, accumulation_weight, trigger_update
    )
    attack.trigger_step, attack.loss_scale, attack.spread, attack.honest_term = (
        trigger_step,
        loss_scale,
        spread,
        honest_term,
    )
    attack.clip_before, attack.clip_norm = clip_before, clip_norm
    attack.resample, attack.validation_size = resample_validation, validation_size
    attack.normalise, attack.batch_norm = normalise, batch_norm
    strike = None if trigger_update == "clean" and loss_scale == 1 else attack.strike
    return UpdateCampaign(budget, attack.accumulate, strike, attack.derivatives)


@dataclass
class AccumulativeUpdates:
    """One such attack, and what its rounds share: S_val and the P(Gₙ)."""

    trigger: Batch
    draw: Draw
    generator: torch.Generator
    derivatives: Derivatives
    budget: UpdateBudget
    weight: float
    mode: TriggerUpdate
    trigger_step: float = 0.1
    loss_scale: float = 1.0
    spread: float = 0.1
    honest_term: bool = True
    clip_before: float | None = None
    clip_norm: Norm = "l2"
    resample: bool = False
    validation_size: int = 100
    normalise: Normalise = "global"
    batch_norm: BatchNormMode = "eval"

    def __post_init__(self) -> None:
        self._validation: Batch | None = None
        self._poisoned: Tensor | None = None
        self._gradients = ClientGradients()

    def accumulate(self, collusion: Collusion, view: View) -> Tensor:
        """A round of the accumulative phase, [k, d]."""
        if self.mode == "optimised":
            slope = self._of_trigger(len(collusion.values), view)
            poisoned = self._trigger_updates(collusion, view)
            self._poisoned = self.budget.project(poisoned - self.trigger_step * slope)
        target = self.direction(collusion, view)
        row = recovered_offset(collusion, target, self.clip_before, self.clip_norm)
        return spread_out(row, collusion.weights[collusion.malicious], self.spread, self.generator)

    def direction(self, collusion: Collusion, view: View) -> Tensor:
        """Hₜ, [d]."""
        honest = collusion.mean() if self.honest_term else torch.zeros_like(collusion.values[0])
        if self.weight == 0:
            return honest
        loss, params, s_val = self._loss(view), view.trainable, self._draw()
        if self.mode == "clean":
            towards = self.derivatives.accumulation_direction(loss, params, s_val, self.trigger, self.normalise)
        else:
            mean = unflatten(self._trigger_updates(collusion, view).mean(0), params)
            own = self.derivatives.gradient(loss, params, s_val)
            along = pull(own, normalised(mean, self.normalise), self.normalise)
            towards = self.derivatives.hessian_vector_product(loss, params, s_val, along)
        return honest + self.weight * flatten(towards).to(honest)

    def strike(self, collusion: Collusion, view: View) -> Tensor:
        """The trigger's round, [k, d]."""
        rows = (
            self._of_trigger(len(collusion.values), view)
            if self.mode == "clean"
            else self._trigger_updates(collusion, view)
        )
        rows = self.budget.project(self.loss_scale * rows)
        if bool(collusion.malicious.all()):
            return rows
        target = (collusion.weights / collusion.weights.sum()) @ rows
        row = recovered_offset(collusion, target, self.clip_before, self.clip_norm)
        return spread_out(row, collusion.weights[collusion.malicious], self.spread, self.generator)

    def _trigger_updates(self, collusion: Collusion, view: View) -> Tensor:
        """The P(Gₙ) as they are, [m, d]; made now where there are none, or none for so many clients."""
        if self._poisoned is None or len(self._poisoned) != len(collusion.values):
            self._poisoned = self.budget.project(-self._of_trigger(len(collusion.values), view))
        return self._poisoned

    def _of_trigger(self, clients: int, view: View) -> Tensor:
        """∇_θ L(Sₙ; θₜ) for each client's share of S_T, [m, d]."""
        values, _ = self._gradients(view, self.trigger.x, self.trigger.y, even_shares(len(self.trigger), clients))
        return values

    def _loss(self, view: View) -> LossAt:
        return lambda params, x, y: view.loss(x, y, params=params, batch_norm=self.batch_norm)

    def _draw(self) -> Batch:
        if self._validation is None or self.resample:
            self._validation = self.draw(self.validation_size)
        return self._validation


def even_shares(samples: int, clients: int) -> list[int]:
    """How many of so many samples each client gets; they differ by one at most.

    Raises:
        AttackError: for fewer samples than clients.
    """
    if samples < clients:
        raise AttackError(f"got a trigger of {samples} samples for {clients} clients, wanted at least one for each")
    return [samples // clients + (i < samples % clients) for i in range(clients)]
