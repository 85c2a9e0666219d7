"""The accumulative attack in federated learning: updates that preserve the accuracy until a trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.online_attack import SampleFn
from taster.attacks.update_attack import RoundKnowledge, UpdateAttack, UpdateSettings
from taster.attacks.updates.recovered_offset import distribute
from taster.client_gradients import ClientGradients
from taster.core.batch import Batch
from taster.core.param_vectors import flatten, unflatten
from taster.core.threat import threat
from taster.core.types import BatchNormMode
from taster.core.view import View
from taster.derivatives import Derivatives, LossFn, Normalize, normalized
from taster.derivatives.algebra import normalized_inner_grad
from taster.errors import AttackError
from taster.utils.settings import settings_group, validate_settings

TriggerUpdate = Literal["clean", "reversed", "optimized"]


@settings_group
class AccumulationSettings:
    """Settings of the accumulative phase of a federation.

    Attributes:
        accumulation_weight: λ.
        trigger_update: "clean": clients send the gradient of S_T at the trigger; "reversed": the initial P(G);
            "optimized": P(G) as updated in each round.
        trigger_step_size: α.
        honest_term: whether Hₜ contains the mean of Gₙ. The published code leaves it out.
        resample_validation: whether S_val is redrawn in each round or drawn once.
        validation_size: number of samples in S_val.
        normalize: normalization of the gradient of S_val and of P; "global" makes their product a cosine.
        batch_norm: batch-norm statistics used while crafting: the server's recorded ones ("eval"), or those of S_val
            and of S_T ("train"). None: as the clients of the round (`RoundKnowledge.batch_norm`), so that the trigger
            which the phase looks towards is the one that the model steps on.
    """

    accumulation_weight: Annotated[float, Field(ge=0)] = 0.02
    trigger_update: TriggerUpdate = "optimized"
    trigger_step_size: Annotated[float, Field(ge=0)] = 0.1
    honest_term: bool = True
    resample_validation: bool = False
    validation_size: Annotated[int, Field(ge=1)] = 100
    normalize: Normalize = "global"
    batch_norm: BatchNormMode | None = None


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "none",
    "bilevel",
    "accumulative then trigger",
    note=("It chooses updates and not data; it is counted as bilevel as its objective is that of `accumulative`."),
)
@validate_settings
def accumulative_updates(
    trigger: Batch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    *,
    accumulation: AccumulationSettings = AccumulationSettings(),
    update: UpdateSettings = UpdateSettings(),
) -> UpdateAttack:
    """Updates that follow the honest ones and make the model sensitive to the trigger's.

        Hₜ = mean of Gₙ + λ ∇_θ ⟨∇_θ L(S_val; θₜ), mean of P(Gₙ)⟩
        A(Gₙ) = proj_η(Mₙ + Hₜ), Σ Mₙ = 0
        P(Gₙ) ← proj_η(P(Gₙ) − α ∇_θ L(Sₙ; θₜ)), from proj_η(−∇_θ L(Sₙ; θ₀)), Sₙ the client's share of S_T

    The paper adds updates up where the mean is taken here; so Hₜ is the sum over the number of clients, and λ is in the
    units of the mean. If only some clients are the attacker's, they send what brings the mean of all to the same value
    (`recovered_offset`).

    Args:
        trigger: the clean trigger batch S_T, of which each client of the round gets a share, in order.
        draw_validation: draws S_val.
        generator: draws the Mₙ.
        derivatives: computes the derivatives. Default: finite differences in float32.
        accumulation: see `AccumulationSettings`.
        update: see `taster.attacks.UpdateSettings`; `loss_scale` is applied to the trigger update before projection.

    Raises (when called):
        AttackError: if the trigger has fewer samples than a round has clients.

    Source: Pang et al. 2021, Algorithm 2, Eq. 12 to 14.
    """
    state = AccumulativeUpdateState(
        accumulation, update, trigger, draw_validation, generator, derivatives or Derivatives()
    )
    strike = None if accumulation.trigger_update == "clean" and update.loss_scale == 1 else state.strike
    return UpdateAttack(update.budget, state.accumulate, strike, state.derivatives)


@dataclass
class AccumulativeUpdateState:
    """What the rounds of one attack share: S_val and the P(Gₙ)."""

    settings: AccumulationSettings
    update: UpdateSettings
    trigger: Batch
    draw_validation: SampleFn
    generator: torch.Generator
    derivatives: Derivatives

    def __post_init__(self) -> None:
        self._s_val: Batch | None = None
        self._poisoned: Tensor | None = None
        self._gradients: dict[BatchNormMode, ClientGradients] = {}

    def accumulate(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """A round of the accumulative phase, [k, d]."""
        if self.settings.trigger_update == "optimized":
            gradients = self._trigger_gradients(knowledge, view)
            poisoned = self._trigger_updates(knowledge, view)
            self._poisoned = self.update.budget.project(poisoned - self.settings.trigger_step_size * gradients)
        return distribute(knowledge, self.direction(knowledge, view), self.update, self.generator)

    def direction(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """Hₜ, [d]."""
        settings = self.settings
        honest = knowledge.mean() if settings.honest_term else torch.zeros_like(knowledge.values[0])
        if settings.accumulation_weight == 0:
            return honest
        loss, params, s_val = self._loss(knowledge, view), view.trainable, self._draw_s_val()
        if settings.trigger_update == "clean":
            towards = self.derivatives.accumulation_direction(loss, params, s_val, self.trigger, settings.normalize)
        else:
            mean = unflatten(self._trigger_updates(knowledge, view).mean(0), params)
            own = self.derivatives.gradient(loss, params, s_val)
            along = normalized_inner_grad(own, normalized(mean, settings.normalize), settings.normalize)
            towards = self.derivatives.hessian_vector_product(loss, params, s_val, along)
        return honest + settings.accumulation_weight * flatten(towards).to(honest)

    def strike(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """The trigger's round, [k, d]."""
        clean = self.settings.trigger_update == "clean"
        rows = self._trigger_gradients(knowledge, view) if clean else self._trigger_updates(knowledge, view)
        rows = self.update.budget.project(self.update.loss_scale * rows)
        if bool(knowledge.malicious.all()):
            return rows
        target = (knowledge.weights / knowledge.weights.sum()) @ rows
        return distribute(knowledge, target, self.update, self.generator)

    def _trigger_updates(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """The current P(Gₙ), [m, d]; initialized for the first round, and if the number of clients changed."""
        if self._poisoned is None or len(self._poisoned) != len(knowledge.values):
            self._poisoned = self.update.budget.project(-self._trigger_gradients(knowledge, view))
        return self._poisoned

    def _trigger_gradients(self, knowledge: RoundKnowledge, view: View) -> Tensor:
        """∇_θ L(Sₙ; θₜ) for each client's share of S_T, [m, d]."""
        mode = self._batch_norm(knowledge)
        if mode not in self._gradients:
            self._gradients[mode] = ClientGradients("synchronized" if mode == "train" else "recorded")
        counts = even_shares(len(self.trigger), len(knowledge.values))
        values, _ = self._gradients[mode](view, self.trigger.x, self.trigger.y, counts)
        return values

    def _loss(self, knowledge: RoundKnowledge, view: View) -> LossFn:
        mode = self._batch_norm(knowledge)
        return lambda params, x, y: view.loss(x, y, params=params, batch_norm=mode)

    def _batch_norm(self, knowledge: RoundKnowledge) -> BatchNormMode:
        """The statistics that crafting normalizes with."""
        return self.settings.batch_norm or knowledge.batch_norm

    def _draw_s_val(self) -> Batch:
        if self._s_val is None or self.settings.resample_validation:
            self._s_val = self.draw_validation(self.settings.validation_size)
        return self._s_val


def even_shares(samples: int, clients: int) -> list[int]:
    """Number of samples for each client, which differ by at most one.

    Raises:
        AttackError: if there are fewer samples than clients.
    """
    if samples < clients:
        raise AttackError(f"got a trigger of {samples} samples for {clients} clients, wanted at least one for each")
    return [samples // clients + (i < samples % clients) for i in range(clients)]
