"""The accumulative attack: many harmless-looking batches that make the model fall at one trigger batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from taster.attacks.crafting import Crafting, Evasion, PgdOptions
from taster.attacks.online.direct_gradient import direct_gradient
from taster.attacks.online.generative import generative
from taster.attacks.online_attack import Budget, Campaign, Draw, of_class
from taster.core.functional_model import BatchNormMode
from taster.core.types import Batch, Phase, Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, Normalise
from taster.errors import AttackError, SettingError
from taster.perturbations.objectives import ObjectiveName
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import checked, faults, settings_model

Trigger = Literal["clean", "fixed", "recrafted", "optimised"]
TriggerBy = Literal["vanilla", "direct_gradient", "generative"]


@checked
def accumulative(
    trigger: Batch,
    validation: Draw,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    rate: float | None = None,
    *,
    epsilon: Annotated[float, Field(ge=0)] = 8 / 255,
    norm: Norm = "linf",
    pgd_steps: Annotated[int, Field(ge=1)] = 100,
    step_size: Annotated[float, Field(gt=0)] | None = None,
    ratio: Annotated[float, Field(gt=0, le=1)] = 1.0,
    accumulation_weight: Annotated[float, Field(ge=0)] = 1.0,
    trigger_batch: Trigger = "fixed",
    resample_validation: bool = False,
    normalise: Normalise = "per_tensor",
    normalise_poisoned: bool = False,
    validation_size: Annotated[int, Field(ge=1)] = 100,
    batch_norm: BatchNormMode = "eval",
    loss_scale: Annotated[float, Field(gt=0)] = 1.0,
    objective: ObjectiveName = "cross_entropy",
    pgd_momentum: Annotated[float, Field(ge=0)] = 0.0,
    random_start: bool = False,
    evade: str | Annotated[int, Field(ge=1)] | None = None,
    evade_weight: Annotated[float, Field(ge=0)] = 1.0,
    surrogate: str | Annotated[int, Field(ge=1)] | None = None,
    victim_class: Annotated[int, Field(ge=0)] | None = None,
    weight_momentum: Annotated[float, Field(ge=0)] | None = None,
    trigger_by: TriggerBy = "vanilla",
    trigger_settings: dict[str, Any] = {},  # noqa: B006 (a setting, never written to)
) -> Campaign:
    """Stream batches that keep the accuracy and make the model sensitive to the trigger batch.

        G_t = ∇_θ ⟨∇_θ L(S_val; θ_t), ∇_θ L(P(S_T); θ_t)⟩
        max over A_t (and P) of H_t = ⟨∇_θ L(A_t(S_t); θ_t), ∇_θ L(S_t; θ_t) + λ G_t⟩

    Args:
        trigger: the clean trigger batch S_T.
        validation: draws S_val.
        generator: draws which samples are poisoned, where `ratio` is under 1.
        derivatives: how they are computed; by default held differences in float32.
        surrogates: models of the attacker's own, by label.
        rate: the learner's learning rate, which the attacks of `trigger_by` go by.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        pgd_steps: C.
        step_size: α; by default 2 ε / C (Table 1).
        ratio: share of each batch, the trigger's too, that is poisoned.
        accumulation_weight: λ; 0 is the control that only follows the clean gradient.
        trigger_batch: "clean" leaves S_T as it is; "fixed" poisons it by Eq. 6 before the first round;
            "recrafted" does so anew before every round and at the strike, which is the minimum over P in Eq. 7 at the
            model as it is; "optimised" starts from S_T and moves it along ∇ H_t in every PGD step of every
            round (Algorithm 1).
        resample_validation: draws S_val anew each round ("re-sampling" in Table 1); else it is drawn once.
        normalise: of the gradients of S_t, S_T and S_val.
        normalise_poisoned: of the poison's own gradient and of G_t too, each term then a cosine, as the published code
            does.
        validation_size: samples in S_val.
        batch_norm: statistics used while crafting: the recorded ones, or those of the batch.
        loss_scale: factor on the trigger's loss, "loss scaling" in Tables 3 to 6.
        objective: the loss whose gradient the poison's is taken to be while it is crafted: "cross_entropy", "kl" to the
            clean samples' predictions, or the "margin" of C&W (Zhu et al. 2023, Table 2).
        pgd_momentum: μ of MIM (Dong et al. 2018); 0 is plain PGD.
        random_start: PGD begins at a random point of the ball.
        evade: the earlier model, by label or steps back, against which the poison's Memorization Discrepancy is kept
            low (the adaptive attacker of Zhu et al. 2023, Eq. 21); None for no such thing.
        evade_weight: of that term.
        surrogate: what poison is crafted on instead of the learner as it is: an earlier model of it, by label or steps
            back (the black-box attacker of Zhu et al. 2023, Table 11), or one of `surrogates`.
        victim_class: S_val is of this class alone, so that the harm falls on it and hides in the mean.
        weight_momentum: of the learner's SGD while the phase lasts, "weight momentum" in Table 1 (1.1 there); None
            leaves it.
        trigger_by: what poisons the trigger where it is "fixed" or "recrafted": "vanilla" is Eq. 6; "direct_gradient"
            and "generative" are the attacks of these names, under labels and a budget of their own.
        trigger_settings: of that attack.

    Raises:
        AttackError: for a trigger by another attack that is "clean" or "optimised", or without the learner's rate; for
            settings of a vanilla one, which are this function's own.
        SettingError: for settings that the other attack does not have.

    Source: Pang et al. 2021, Algorithm 1 and Eq. 9.
    """
    budget = Budget(LpBall(norm, epsilon), ratio, loss_scale)
    crafting = Crafting(
        budget,
        pgd_steps,
        step_size,
        normalise,
        normalise_poisoned,
        batch_norm,
        derivatives or Derivatives(),
        PgdOptions(objective, pgd_momentum, generator if random_start else None),
        Evasion.of(evade, evade_weight),
        surrogate,
        surrogates or {},
    )
    other = _trigger_attack(trigger_by, trigger_settings, trigger_batch, validation, generator, rate)
    attack = Accumulation(
        trigger,
        of_class(validation, victim_class),
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

    return Campaign(
        budget,
        accumulate=attack.accumulate,
        trigger=strike,
        derivatives=crafting.derivatives,
        weight_momentum=weight_momentum,
        trigger_budget=None if other is None else replace(other.budget, loss_scale=loss_scale),
        forming=None if other is None else other.forming,
    )


def _trigger_attack(
    name: TriggerBy,
    settings: dict[str, Any],
    mode: Trigger,
    validation: Draw,
    generator: torch.Generator,
    rate: float | None,
) -> Campaign | None:
    """The attack that makes the trigger; None where this one does."""
    if name == "vanilla":
        if settings:
            raise AttackError(f"trigger_settings: got {settings} with trigger_by = 'vanilla', wanted none")
        return None
    if mode not in ("fixed", "recrafted"):
        raise AttackError(f"trigger_by: got {name!r} with trigger_batch = {mode!r}, wanted 'fixed' or 'recrafted'")
    if rate is None:
        raise AttackError(f"trigger_by: got {name!r} without the learner's rate, wanted accumulative(..., rate=η)")
    function: Callable[..., Campaign] = direct_gradient if name == "direct_gradient" else generative
    known = settings_model(function)
    try:
        known.model_validate(settings)
    except ValidationError as error:
        raise SettingError("; ".join(faults(error, "trigger_settings: ", known))) from None
    return function(validation, generator, rate, **settings)


@dataclass
class Accumulation:
    """One accumulative attack, and what its rounds share: S_val and the trigger so far."""

    clean_trigger: Batch
    draw: Draw
    generator: torch.Generator
    crafting: Crafting
    weight: float
    mode: Trigger
    resample: bool
    validation_size: int
    other: Campaign | None = None
    _validation: Batch | None = None
    _trigger: Batch | None = None

    def __post_init__(self) -> None:
        chosen = self.crafting.budget.choose(len(self.clean_trigger), self.generator)
        self._chosen = chosen.to(self.clean_trigger.x.device)
        if self.mode == "optimised" and self.crafting.pgd.momentum:
            raise AttackError(
                "pgd_momentum: got one with trigger_batch = 'optimised', whose steps are taken in turns with the "
                "trigger's; wanted 0"
            )

    def accumulate(self, clean: Batch, view: View) -> Batch:
        """A_t(S_t): one round of Algorithm 1."""
        crafting, view = self.crafting, self.crafting.on(view)
        chosen = crafting.budget.choose(len(clean), self.generator).to(clean.x.device)
        s_val = self._draw_validation()
        s_trigger = self._poisoned_trigger(view, s_val)
        keep = crafting.target(view, clean)
        if self.mode != "optimised":
            towards = self._direction(view, s_val, s_trigger)
            return Batch(crafting.align(clean, view, self._terms(keep, towards), chosen), clean.y)
        x, x_trigger = crafting.start(clean, chosen), s_trigger.x
        for _ in range(crafting.steps):
            towards = self._direction(view, s_val, Batch(x_trigger, s_trigger.y))
            x_next = crafting.align(clean, view, self._terms(keep, towards), chosen, start=x, steps=1)
            x_trigger = self._move_trigger(view, s_val, Batch(x, clean.y), x_trigger)
            x = x_next
        self._trigger = Batch(x_trigger, s_trigger.y)
        return Batch(x, clean.y)

    def trigger_for(self, clean: Batch, view: View) -> Batch:
        """P(S_T), as it stands after the accumulative phase; made now where there was none."""
        return (
            clean if self.mode == "clean" else self._poisoned_trigger(self.crafting.on(view), self._draw_validation())
        )

    def _draw_validation(self) -> Batch:
        if self._validation is None or self.resample:
            self._validation = self.draw(self.validation_size)
        return self._validation

    def _poisoned_trigger(self, view: View, s_val: Batch) -> Batch:
        """The trigger as this round begins."""
        if self.mode == "clean":
            return self.clean_trigger
        if self._trigger is None and self.mode == "optimised":
            self._trigger = self.clean_trigger  # Algorithm 1: "Initialize P(S_T) = S_T"
        if self.other is not None:
            if self._trigger is None or self.mode == "recrafted":
                self._trigger = self.other.poison(self.clean_trigger, view, Phase.TRIGGER)
            return self._trigger
        if self._trigger is None or self.mode == "recrafted":
            against = self.crafting.target(view, s_val)
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
            crafting.loss(view), view.trainable, s_val, s_trigger, crafting.normalise
        )

    def _terms(self, keep: Tensors, towards: Tensors) -> list[tuple[float, Tensors]]:
        """The two directions of Eq. 9: as one sum, unless each is to be a cosine of its own."""
        if self.weight == 0:
            return [(1.0, keep)]
        if self.crafting.normalise_poisoned:
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
            crafting.normalise,
            crafting.normalise if crafting.normalise_poisoned else "none",
        )
        slope[~self._chosen] = 0
        return crafting.budget.ball.step(x_trigger, slope, crafting.alpha, self.clean_trigger.x)
