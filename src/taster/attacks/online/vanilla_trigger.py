"""The poisoned trigger by itself: one batch made to undo what the model has learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.crafting import Crafting, Evasion, PGDOptions
from taster.attacks.online_attack import Budget, OnlineAttack, SampleFn, sample_class
from taster.core.functional_model import BatchNormMode
from taster.core.types import Batch
from taster.core.view import View
from taster.derivatives import Derivatives, Normalize
from taster.perturbations.objectives import ObjectiveName
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


@validate_settings
def vanilla_trigger(
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    *,
    epsilon: Annotated[float, Field(ge=0)] = 8 / 255,
    norm: Norm = "linf",
    pgd_steps: Annotated[int, Field(ge=1)] = 100,
    step_size: Annotated[float, Field(gt=0)] | None = None,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    normalize: Normalize = "per_tensor",
    normalize_poisoned: bool = False,
    validation_size: Annotated[int, Field(ge=1)] = 100,
    batch_norm: BatchNormMode = "eval",
    loss_scale: Annotated[float, Field(gt=0)] = 1.0,
    objective: ObjectiveName = "cross_entropy",
    pgd_momentum: Annotated[float, Field(ge=0)] = 0.0,
    random_start: bool = False,
    evade_reference: str | Annotated[int, Field(ge=1)] | None = None,
    evade_weight: Annotated[float, Field(ge=0)] = 1.0,
    surrogate: str | Annotated[int, Field(ge=1)] | None = None,
    victim_class: Annotated[int, Field(ge=0)] | None = None,
    greedy: bool = False,
) -> OnlineAttack:
    """A trigger batch whose gradient opposes that of the validation loss; the stream stays clean, unless it is greedy.

        min over P of ⟨∇_θ L(S_val; θ_T), ∇_θ L(P(S_T); θ_T)⟩

    Args:
        draw_validation: draws S_val.
        generator: draws which samples are poisoned, where `poison_fraction` is under 1.
        derivatives: how they are computed; by default held differences in float32.
        surrogates: models of the attacker's own, by label.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        pgd_steps: C.
        step_size: α; by default 2 ε / C (Table 1).
        poison_fraction: share of the trigger batch that is poisoned.
        normalize: of the validation gradient.
        normalize_poisoned: of the trigger's gradient too: the objective is then a cosine, as in the published code.
        validation_size: samples in S_val.
        batch_norm: statistics used while crafting: the recorded ones, or those of the batch.
        loss_scale: factor on the trigger's loss, "loss scaling" in Tables 3 to 5.
        objective: the loss whose gradient the poison's is taken to be while it is crafted: "cross_entropy", "kl" to the
            clean samples' predictions, or the "margin" of C&W (Zhu et al. 2023, Table 2).
        pgd_momentum: μ of MIM (Dong et al. 2018); 0 is plain PGD.
        random_start: PGD begins at a random point of the ball.
        evade_reference: the earlier model, by label or steps back, against which the poison's Memorization Discrepancy is kept
            low (the adaptive attacker of Zhu et al. 2023, Eq. 21); None for no such thing.
        evade_weight: of that term.
        surrogate: what poison is crafted on instead of the learner as it is: an earlier model of it, by label or steps
            back (the black-box attacker of Zhu et al. 2023, Table 11), or one of `surrogates`.
        greedy: poisons every batch of the stream likewise, which is the online attack that the accumulative one is held
            against (Pang et al. 2021, Fig. 1, left), and starves a guard that refuses whatever does harm.
        victim_class: S_val is of this class alone, so that the harm falls on it and hides in the mean.

    Source: Pang et al. 2021, Eq. 6 ("poisoned trigger").
    """
    budget = Budget(LpBall(norm, epsilon), poison_fraction, loss_scale)
    draw = sample_class(draw_validation, victim_class)
    crafting = Crafting(
        budget,
        pgd_steps,
        step_size,
        normalize,
        normalize_poisoned,
        batch_norm,
        derivatives or Derivatives(),
        PGDOptions(objective, pgd_momentum, generator if random_start else None),
        Evasion.from_settings(evade_reference, evade_weight),
        surrogate,
        surrogates or {},
    )

    def trigger(clean: Batch, view: View) -> Batch:
        chosen = budget.draw_mask(len(clean), generator).to(clean.x.device)
        s_val, view = draw(validation_size), crafting.crafting_view(view)
        return Batch(
            crafting.oppose(clean, view, crafting.normalized_gradient(view, s_val), chosen), clean.y, loss_scale
        )

    stream = trigger if greedy else None
    return OnlineAttack(budget, accumulate=stream, trigger=trigger, derivatives=crafting.derivatives)
