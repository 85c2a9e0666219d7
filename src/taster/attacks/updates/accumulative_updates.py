"""The accumulative attack in federated learning: updates that keep the accuracy until a trigger strikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.online_attack import SampleFn
from taster.attacks.update_attack import RoundKnowledge, UpdateAttack, UpdateBudget
from taster.attacks.updates.recovered_offset import add_zero_sum_noise, recovered_offset
from taster.client_gradients import ClientGradients
from taster.core.functional_model import BatchNormMode
from taster.core.param_vectors import flatten, unflatten
from taster.core.types import Batch
from taster.core.view import View
from taster.derivatives import Derivatives, LossFn, Normalize, normalized
from taster.derivatives.algebra import normalized_inner_grad
from taster.errors import AttackError
from taster.perturbations.pgd import Norm
from taster.utils.settings import validate_settings

TriggerUpdate = Literal["clean", "reversed", "optimized"]


@validate_settings
def accumulative_updates(
    trigger: Batch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    *,
    accumulation_weight: Annotated[float, Field(ge=0)] = 0.02,
    trigger_update: TriggerUpdate = "optimized",
    trigger_step_size: Annotated[float, Field(ge=0)] = 0.1,
    max_norm: Annotated[float, Field(gt=0)] | None = None,
    norm: Norm = "l2",
    loss_scale: Annotated[float, Field(gt=0)] = 1.0,
    noise_scale: Annotated[float, Field(ge=0)] = 0.1,
    honest_term: bool = True,
    server_clip_norm: Annotated[float, Field(gt=0)] | None = None,
    server_clip_norm_type: Norm = "l2",
    resample_validation: bool = False,
    validation_size: Annotated[int, Field(ge=1)] = 100,
    normalize: Normalize = "global",
    batch_norm: BatchNormMode = "eval",
) -> UpdateAttack:
    """Updates that follow the honest ones and make the model sensitive to the trigger's.

        Hₜ = mean of Gₙ + λ ∇_θ ⟨∇_θ L(S_val; θₜ), mean of P(Gₙ)⟩
        A(Gₙ) = proj_η(Mₙ + Hₜ), Σ Mₙ = 0
        P(Gₙ) ← proj_η(P(Gₙ) − α ∇_θ L(Sₙ; θₜ)), from proj_η(−∇_θ L(Sₙ; θ₀)), Sₙ the share of S_T that a client has

    The paper adds updates up where the mean is taken here; so Hₜ is the sum over the number of clients, and λ is in the
    units of the mean. With some of the clients, those send what makes the mean of all the same (`recovered_offset`).

    Args:
        trigger: the clean trigger batch S_T, of which each client of the round has a share, in order.
        draw_validation: draws S_val.
        generator: draws the Mₙ.
        derivatives: how they are computed; by default held differences in float32.
        accumulation_weight: λ.
        trigger_update: "clean": clients strike with the gradient of S_T as it is; "reversed": with P(G) as it is at the
            beginning; "optimized": with P(G) as it has become.
        trigger_step_size: α.
        max_norm: η, the greatest length of what a client sends; None for no bound.
        norm: of η.
        loss_scale: factor on the trigger update, before it is projected.
        noise_scale: length of the Mₙ over that of what they are added to; the paper gives none.
        honest_term: false leaves the mean of Gₙ out of Hₜ, as the published code does.
        server_clip_norm: the bound to which the attacker knows the server to scale each update (threat model C.3).
        server_clip_norm_type: of that bound.
        resample_validation: draws S_val anew each round; else it is drawn once.
        validation_size: samples in S_val.
        normalize: of the gradient of S_val and of P; "global" makes their product a cosine.
        batch_norm: statistics used while crafting: the recorded ones, or those of the batch.

    Raises (when called):
        AttackError: when the trigger has fewer samples than a round has clients.

    Source: Pang et al. 2021, Algorithm 2, Eq. 12 to 14.
    """
    budget = UpdateBudget(max_norm, norm)
    attack = AccumulativeUpdateState(
        trigger, draw_validation, generator, derivatives or Derivatives(), budget, accumulation_weight, trigger_update
    )
    attack.trigger_step_size, attack.loss_scale, attack.noise_scale, attack.honest_term = (
        trigger_step_size,
        loss_scale,
        noise_scale,
        honest_term,
    )
    attack.server_clip_norm, attack.server_clip_norm_type = server_clip_norm, server_clip_norm_type
    attack.resample, attack.validation_size = resample_validation, validation_size
    attack.normalize, attack.batch_norm = normalize, batch_norm
    strike = None if trigger_update == "clean" and loss_scale == 1 else attack.strike
    return UpdateAttack(budget, attack.accumulate, strike, attack.derivatives)


@dataclass
class AccumulativeUpdateState:
    """One such attack, and what its rounds share: S_val and the P(Gₙ)."""

    trigger: Batch
    draw: SampleFn
    generator: torch.Generator
    derivatives: Derivatives
    budget: UpdateBudget
    weight: float
    mode: TriggerUpdate
    trigger_step_size: float = 0.1
    loss_scale: float = 1.0
    noise_scale: float = 0.1
    honest_term: bool = True
    server_clip_norm: float | None = None
    server_clip_norm_type: Norm = "l2"
    resample: bool = False
    validation_size: int = 100
    normalize: Normalize = "global"
    batch_norm: BatchNormMode = "eval"

    def __post_init__(self) -> None:
        self._validation: Batch | None = None
        self._poisoned: Tensor | None = None
        self._gradients = ClientGradients()

    def accumulate(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """A round of the accumulative phase, [k, d]."""
        if self.mode == "optimized":
            slope = self._of_trigger(len(knowledge.values), view)
            poisoned = self._trigger_updates(knowledge, view)
            self._poisoned = self.budget.project(poisoned - self.trigger_step_size * slope)
        target = self.direction(knowledge, view)
        row = recovered_offset(knowledge, target, self.server_clip_norm, self.server_clip_norm_type)
        return add_zero_sum_noise(row, knowledge.weights[knowledge.malicious], self.noise_scale, self.generator)

    def direction(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """Hₜ, [d]."""
        honest = knowledge.mean() if self.honest_term else torch.zeros_like(knowledge.values[0])
        if self.weight == 0:
            return honest
        loss, params, s_val = self._loss(view), view.trainable, self._draw()
        if self.mode == "clean":
            towards = self.derivatives.accumulation_direction(loss, params, s_val, self.trigger, self.normalize)
        else:
            mean = unflatten(self._trigger_updates(knowledge, view).mean(0), params)
            own = self.derivatives.gradient(loss, params, s_val)
            along = normalized_inner_grad(own, normalized(mean, self.normalize), self.normalize)
            towards = self.derivatives.hessian_vector_product(loss, params, s_val, along)
        return honest + self.weight * flatten(towards).to(honest)

    def strike(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """The trigger's round, [k, d]."""
        rows = (
            self._of_trigger(len(knowledge.values), view)
            if self.mode == "clean"
            else self._trigger_updates(knowledge, view)
        )
        rows = self.budget.project(self.loss_scale * rows)
        if bool(knowledge.malicious.all()):
            return rows
        target = (knowledge.weights / knowledge.weights.sum()) @ rows
        row = recovered_offset(knowledge, target, self.server_clip_norm, self.server_clip_norm_type)
        return add_zero_sum_noise(row, knowledge.weights[knowledge.malicious], self.noise_scale, self.generator)

    def _trigger_updates(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """The P(Gₙ) as they are, [m, d]; made now where there are none, or none for so many clients."""
        if self._poisoned is None or len(self._poisoned) != len(knowledge.values):
            self._poisoned = self.budget.project(-self._of_trigger(len(knowledge.values), view))
        return self._poisoned

    def _of_trigger(self, clients: int, view: View) -> Tensor:
        """∇_θ L(Sₙ; θₜ) for each client's share of S_T, [m, d]."""
        values, _ = self._gradients(view, self.trigger.x, self.trigger.y, even_shares(len(self.trigger), clients))
        return values

    def _loss(self, view: View) -> LossFn:
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
