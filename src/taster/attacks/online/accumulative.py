"""The accumulative attack: many harmless-looking batches that make the model fall at one trigger batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from taster.attacks.crafting import Crafting, Evasion, PGDOptions
from taster.attacks.online.direct_gradient import direct_gradient
from taster.attacks.online.generative import generative
from taster.attacks.online_attack import Budget, OnlineAttack, SampleFn, sample_class
from taster.core.functional_model import BatchNormMode
from taster.core.types import Batch, Phase, Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, Normalize
from taster.errors import AttackError, SettingError
from taster.perturbations.objectives import ObjectiveName
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import settings_model, validate_settings, validation_messages

TriggerBatch = Literal["clean", "fixed", "recrafted", "optimized"]
TriggerAttackName = Literal["vanilla", "direct_gradient", "generative"]


@validate_settings
def accumulative(
    trigger: Batch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    learning_rate: float | None = None,
    *,
    epsilon: Annotated[float, Field(ge=0)] = 8 / 255,
    norm: Norm = "linf",
    pgd_steps: Annotated[int, Field(ge=1)] = 100,
    step_size: Annotated[float, Field(gt=0)] | None = None,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    accumulation_weight: Annotated[float, Field(ge=0)] = 1.0,
    trigger_batch: TriggerBatch = "fixed",
    resample_validation: bool = False,
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
    weight_momentum: Annotated[float, Field(ge=0)] | None = None,
    trigger_attack: TriggerAttackName = "vanilla",
    trigger_settings: dict[str, Any] = {},  # noqa: B006 (a setting, never written to)
) -> OnlineAttack:
    """Stream batches that keep the accuracy and make the model sensitive to the trigger batch.

        G_t = ∇_θ ⟨∇_θ L(S_val; θ_t), ∇_θ L(P(S_T); θ_t)⟩
        max over A_t (and P) of H_t = ⟨∇_θ L(A_t(S_t); θ_t), ∇_θ L(S_t; θ_t) + λ G_t⟩

    Args:
        trigger: the clean trigger batch S_T.
        draw_validation: draws S_val.
        generator: draws which samples are poisoned, where `poison_fraction` is under 1.
        derivatives: how they are computed; by default held differences in float32.
        surrogates: models of the attacker's own, by label.
        learning_rate: the learner's learning rate, which the attacks of `trigger_attack` go by.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        pgd_steps: C.
        step_size: α; by default 2 ε / C (Table 1).
        poison_fraction: share of each batch, the trigger's too, that is poisoned.
        accumulation_weight: λ; 0 is the control that only follows the clean gradient.
        trigger_batch: "clean" leaves S_T as it is; "fixed" poisons it by Eq. 6 before the first round;
            "recrafted" does so anew before every round and at the strike, which is the minimum over P in Eq. 7 at the
            model as it is; "optimized" starts from S_T and moves it along ∇ H_t in every PGD step of every
            round (Algorithm 1).
        resample_validation: draws S_val anew each round ("re-sampling" in Table 1); else it is drawn once.
        normalize: of the gradients of S_t, S_T and S_val.
        normalize_poisoned: of the poison's own gradient and of G_t too, each term then a cosine, as the published code
            does.
        validation_size: samples in S_val.
        batch_norm: statistics used while crafting: the recorded ones, or those of the batch.
        loss_scale: factor on the trigger's loss, "loss scaling" in Tables 3 to 6.
        objective: the loss whose gradient the poison's is taken to be while it is crafted: "cross_entropy", "kl" to the
            clean samples' predictions, or the "margin" of C&W (Zhu et al. 2023, Table 2).
        pgd_momentum: μ of MIM (Dong et al. 2018); 0 is plain PGD.
        random_start: PGD begins at a random point of the ball.
        evade_reference: the earlier model, by label or steps back, against which the poison's Memorization Discrepancy is kept
            low (the adaptive attacker of Zhu et al. 2023, Eq. 21); None for no such thing.
        evade_weight: of that term.
        surrogate: what poison is crafted on instead of the learner as it is: an earlier model of it, by label or steps
            back (the black-box attacker of Zhu et al. 2023, Table 11), or one of `surrogates`.
        victim_class: S_val is of this class alone, so that the harm falls on it and hides in the mean.
        weight_momentum: of the learner's SGD while the phase lasts, "weight momentum" in Table 1 (1.1 there); None
            leaves it.
        trigger_attack: what poisons the trigger where it is "fixed" or "recrafted": "vanilla" is Eq. 6; "direct_gradient"
            and "generative" are the attacks of these names, under labels and a budget of their own.
        trigger_settings: of that attack.

    Raises:
        AttackError: for a trigger by another attack that is "clean" or "optimized", or without the learner's rate; for
            settings of a vanilla one, which are this function's own.
        SettingError: for settings that the other attack does not have.

    Source: Pang et al. 2021, Algorithm 1 and Eq. 9.
    """
    budget = Budget(LpBall(norm, epsilon), poison_fraction, loss_scale)
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
    other = make_trigger_attack(
        trigger_attack, trigger_settings, trigger_batch, draw_validation, generator, learning_rate
    )
    attack = AccumulativeState(
        trigger,
        sample_class(draw_validation, victim_class),
        generator,
        crafting,
        accumulation_weight,
        trigger_batch,
        resample_validation,
        validation_size,
        other,
    )

    def strike(clean: Batch, view: View) -> Batch:
        struck = attack.trigger_for(clean, view)
        return Batch(struck.x, struck.y, loss_scale)

    return OnlineAttack(
        budget,
        accumulate=attack.accumulate,
        trigger=strike,
        derivatives=crafting.derivatives,
        weight_momentum=weight_momentum,
        trigger_budget=None if other is None else replace(other.budget, max_loss_weight=loss_scale),
        trace=None if other is None else other.trace,
    )


def make_trigger_attack(
    name: TriggerAttackName,
    settings: dict[str, Any],
    mode: TriggerBatch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    learning_rate: float | None,
) -> OnlineAttack | None:
    """The attack that makes the trigger; None where this one does."""
    if name == "vanilla":
        if settings:
            raise AttackError(f"trigger_settings: got {settings} with trigger_attack = 'vanilla', wanted none")
        return None
    if mode not in ("fixed", "recrafted"):
        raise AttackError(f"trigger_attack: got {name!r} with trigger_batch = {mode!r}, wanted 'fixed' or 'recrafted'")
    if learning_rate is None:
        raise AttackError(
            f"trigger_attack: got {name!r} without the learner's rate, wanted accumulative(..., learning_rate=η)"
        )
    function: Callable[..., OnlineAttack] = direct_gradient if name == "direct_gradient" else generative
    known = settings_model(function)
    try:
        known.model_validate(settings)
    except ValidationError as error:
        raise SettingError("; ".join(validation_messages(error, "trigger_settings: ", known))) from None
    return function(draw_validation, generator, learning_rate, **settings)


@dataclass
class AccumulativeState:
    """One accumulative attack, and what its rounds share: S_val and the trigger so far."""

    clean_trigger: Batch
    draw: SampleFn
    generator: torch.Generator
    crafting: Crafting
    weight: float
    mode: TriggerBatch
    resample: bool
    validation_size: int
    other: OnlineAttack | None = None
    _validation: Batch | None = None
    _trigger: Batch | None = None

    def __post_init__(self) -> None:
        chosen = self.crafting.budget.draw_mask(len(self.clean_trigger), self.generator)
        self._chosen = chosen.to(self.clean_trigger.x.device)
        if self.mode == "optimized" and self.crafting.pgd.momentum:
            raise AttackError(
                "pgd_momentum: got one with trigger_batch = 'optimized', whose steps are taken in turns with the "
                "trigger's; wanted 0"
            )

    def accumulate(self, clean: Batch, view: View) -> Batch:
        """A_t(S_t): one round of Algorithm 1."""
        crafting, view = self.crafting, self.crafting.crafting_view(view)
        chosen = crafting.budget.draw_mask(len(clean), self.generator).to(clean.x.device)
        s_val = self._draw_validation()
        s_trigger = self._poisoned_trigger(view, s_val)
        keep = crafting.normalized_gradient(view, clean)
        if self.mode != "optimized":
            towards = self._direction(view, s_val, s_trigger)
            return Batch(crafting.align(clean, view, self._terms(keep, towards), chosen), clean.y)
        x, x_trigger = crafting.init(clean, chosen), s_trigger.x
        for _ in range(crafting.steps):
            towards = self._direction(view, s_val, Batch(x_trigger, s_trigger.y))
            x_next = crafting.align(clean, view, self._terms(keep, towards), chosen, init=x, steps=1)
            x_trigger = self._move_trigger(view, s_val, Batch(x, clean.y), x_trigger)
            x = x_next
        self._trigger = Batch(x_trigger, s_trigger.y)
        return Batch(x, clean.y)

    def trigger_for(self, clean: Batch, view: View) -> Batch:
        """P(S_T), as it stands after the accumulative phase; made now where there was none."""
        return (
            clean
            if self.mode == "clean"
            else self._poisoned_trigger(self.crafting.crafting_view(view), self._draw_validation())
        )

    def _draw_validation(self) -> Batch:
        if self._validation is None or self.resample:
            self._validation = self.draw(self.validation_size)
        return self._validation

    def _poisoned_trigger(self, view: View, s_val: Batch) -> Batch:
        """The trigger as this round begins."""
        if self.mode == "clean":
            return self.clean_trigger
        if self._trigger is None and self.mode == "optimized":
            self._trigger = self.clean_trigger  # Algorithm 1: "Initialize P(S_T) = S_T"
        if self.other is not None:
            if self._trigger is None or self.mode == "recrafted":
                self._trigger = self.other.poison(self.clean_trigger, view, Phase.TRIGGER)
            return self._trigger
        if self._trigger is None or self.mode == "recrafted":
            against = self.crafting.normalized_gradient(view, s_val)
            self._trigger = Batch(
                self.crafting.oppose(self.clean_trigger, view, against, self._chosen), self.clean_trigger.y
            )
        return self._trigger

    def _direction(self, view: View, s_val: Batch, s_trigger: Batch) -> Tensors:
        """G_t; not computed where λ leaves it out."""
        if self.weight == 0:
            return {}
        crafting = self.crafting
        return crafting.derivatives.accumulation_direction(
            crafting.loss(view), view.trainable, s_val, s_trigger, crafting.normalize
        )

    def _terms(self, keep: Tensors, towards: Tensors) -> list[tuple[float, Tensors]]:
        """The two directions of Eq. 9: as one sum, unless each is to be a cosine of its own."""
        if self.weight == 0:
            return [(1.0, keep)]
        if self.crafting.normalize_poisoned:
            return [(1.0, keep), (self.weight, towards)]
        return [(1.0, {name: keep[name] + self.weight * towards[name] for name in keep})]

    def _move_trigger(self, view: View, s_val: Batch, poisoned: Batch, x_trigger: Tensor) -> Tensor:
        """P(x_T) ← proj(P(x_T) + α sign ∇ H_t). Only λ G_t depends on the trigger, and only the sign of λ matters."""
        if self.weight == 0:
            return x_trigger
        crafting = self.crafting
        slope = crafting.derivatives.accumulation_derivative(
            crafting.loss(view),
            view.trainable,
            s_val,
            Batch(x_trigger, self.clean_trigger.y),
            crafting.gradient(view, poisoned),
            crafting.normalize,
            crafting.normalize if crafting.normalize_poisoned else "none",
        )
        slope[~self._chosen] = 0
        return crafting.budget.ball.step(x_trigger, slope, crafting.alpha, self.clean_trigger.x)
