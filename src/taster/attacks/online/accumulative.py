"""The accumulative attack: harmless-looking batches after which the model collapses at a single trigger batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from taster.attacks.crafting import Crafting, CraftingSettings
from taster.attacks.online.direct_gradient import direct_gradient
from taster.attacks.online.generative import generative
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.core.batch import Batch
from taster.core.step_record import Phase
from taster.core.threat import threat
from taster.core.types import Tensors
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.errors import AttackError, SettingError
from taster.utils.settings import group_settings, settings_model, validate_settings, validation_messages

TriggerBatch = Literal["clean", "fixed", "recrafted", "optimized"]
TriggerAttackName = Literal["vanilla", "direct_gradient", "generative"]


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "accumulative then trigger",
    note=(
        "Training is looked ahead to by two steps, to first order; with `victim_class` it is targeted, with "
        "`surrogate` grey box."
    ),
)
@validate_settings
def accumulative(
    trigger: Batch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    learning_rate: float | None = None,
    *,
    crafting: CraftingSettings = CraftingSettings(),
    accumulation_weight: Annotated[float, Field(ge=0)] = 1.0,
    trigger_batch: TriggerBatch = "fixed",
    resample_validation: bool = False,
    weight_momentum: Annotated[float, Field(ge=0)] | None = None,
    trigger_attack: TriggerAttackName = "vanilla",
    trigger_settings: dict[str, Any] = {},  # noqa: B006 (a setting, never written to)
) -> OnlineAttack:
    """Stream batches that preserve the accuracy and make the model sensitive to the trigger batch.

        G_t = ∇_θ ⟨∇_θ L(S_val; θ_t), ∇_θ L(P(S_T); θ_t)⟩
        max over A_t (and P) of H_t = ⟨∇_θ L(A_t(S_t); θ_t), ∇_θ L(S_t; θ_t) + λ G_t⟩

    Args:
        trigger: the clean trigger batch S_T.
        draw_validation: draws S_val.
        generator: draws which samples are poisoned if `poison_fraction` is below 1, and random starts.
        derivatives: computes the derivatives. Default: finite differences in float32.
        surrogates: the attacker's own models, by label.
        learning_rate: of the learner, required by the attacks of `trigger_attack`.
        crafting: see `taster.attacks.CraftingSettings`. With `normalize_poisoned`, the default, G_t is normalized as
            well and each of the two terms is a cosine; without it they are ⟨∇_θ L(A_t(S_t); θ_t), v + λ G_t⟩, with v
            the normalized gradient of the clean batch.
        accumulation_weight: λ. 0 is the control that follows the clean gradient only; as a cosine, of which the clean
            samples are the maximum, it moves them hardly better than at random.
        trigger_batch: "clean" leaves S_T unpoisoned; "fixed" poisons it by Eq. 6 before the first round; "recrafted"
            does so before every round and at the trigger, which is the minimum over P in Eq. 7 at the current model;
            "optimized" starts from S_T and moves it along ∇ H_t in every PGD step of every round (Algorithm 1).
        resample_validation: whether S_val is redrawn in each round ("re-sampling" in Table 1) or drawn once.
        weight_momentum: momentum of the learner's SGD during the phase ("weight momentum" in Table 1, where it is 1.1).
            None: unchanged.
        trigger_attack: attack that poisons the trigger if it is "fixed" or "recrafted": "vanilla" is Eq. 6;
            "direct_gradient" and "generative" are the attacks of these names, with labels and a budget of their own.
        trigger_settings: settings of that attack; its `batch_norm` is by default that of `crafting`.

    Raises:
        AttackError: if another attack makes the trigger and `trigger_batch` is "clean" or "optimized", or the learning
            rate is missing; if `trigger_settings` are given for "vanilla"; or if PGD has momentum and the trigger is
            "optimized".
        SettingError: if the other attack has no such settings.

    Source: Pang et al. 2021, Algorithm 1 and Eq. 9.
    """
    craft = Crafting(crafting, draw_validation, generator, derivatives or Derivatives(), surrogates or {})
    if crafting.batch_norm is not None and trigger_attack != "vanilla":
        trigger_settings = {"batch_norm": crafting.batch_norm, **trigger_settings}
    other = _make_trigger_attack(
        trigger_attack, trigger_settings, trigger_batch, draw_validation, generator, learning_rate
    )
    state = AccumulativeState(craft, trigger, accumulation_weight, trigger_batch, resample_validation, other)

    def strike(clean: Batch, view: View) -> Batch:
        struck = state.poisoned_trigger(clean, view)
        return Batch(struck.x, struck.y, crafting.loss_scale)

    return OnlineAttack(
        craft.budget,
        accumulate=state.accumulate,
        trigger=strike,
        derivatives=craft.derivatives,
        weight_momentum=weight_momentum,
        trigger_budget=None if other is None else replace(other.budget, max_loss_weight=crafting.loss_scale),
        trace=None if other is None else other.trace,
    )


def _make_trigger_attack(
    name: TriggerAttackName,
    settings: dict[str, Any],
    mode: TriggerBatch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    learning_rate: float | None,
) -> OnlineAttack | None:
    """The attack that poisons the trigger; None for "vanilla", which needs no other attack."""
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
    model = settings_model(function)
    try:
        model.model_validate(settings)
    except ValidationError as error:
        raise SettingError("; ".join(validation_messages(error, "trigger_settings: ", model))) from None
    return function(draw_validation, generator, learning_rate, **group_settings(function, settings))


@dataclass
class AccumulativeState:
    """What the rounds of one accumulative attack share: S_val and the current trigger.

    Attributes:
        crafting: crafts the stream's batches, and the trigger by Eq. 6.
        clean_trigger: S_T.
        weight: λ.
        mode: see `accumulative`.
        resample: whether S_val is redrawn in each round.
        trigger_attack: the attack that poisons the trigger instead of Eq. 6.
    """

    crafting: Crafting
    clean_trigger: Batch
    weight: float
    mode: TriggerBatch
    resample: bool
    trigger_attack: OnlineAttack | None = None

    def __post_init__(self) -> None:
        if self.mode == "optimized" and self.crafting.settings.pgd_momentum:
            raise AttackError(
                f"pgd_momentum: got {self.crafting.settings.pgd_momentum} with trigger_batch = 'optimized', whose "
                "steps alternate with the trigger's; wanted 0"
            )
        self._trigger_mask = self.crafting.draw_mask(self.clean_trigger)
        self._s_val: Batch | None = None
        self._trigger: Batch | None = None

    def accumulate(self, clean: Batch, view: View) -> Batch:
        """A_t(S_t): one round of Algorithm 1."""
        crafting, view = self.crafting, self.crafting.crafting_view(view)
        mask = crafting.draw_mask(clean)
        s_val = self._draw_s_val()
        trigger = self._current_trigger(view, s_val)
        clean_gradient = crafting.normalized_gradient(view, clean)
        if self.mode != "optimized":
            terms = self._terms(clean_gradient, self._direction(view, s_val, trigger))
            return Batch(crafting.align(clean, view, terms, mask), clean.y)
        x, x_trigger = crafting.init(clean, mask), trigger.x
        for _ in range(crafting.settings.pgd_steps):
            terms = self._terms(clean_gradient, self._direction(view, s_val, Batch(x_trigger, trigger.y)))
            x_next = crafting.align(clean, view, terms, mask, init=x, steps=1)
            x_trigger = self._move_trigger(view, s_val, Batch(x, clean.y), x_trigger)
            x = x_next
        self._trigger = Batch(x_trigger, trigger.y)
        return Batch(x, clean.y)

    def poisoned_trigger(self, clean: Batch, view: View) -> Batch:
        """P(S_T) at the trigger's step; crafted then if it has not been before."""
        if self.mode == "clean":
            return clean
        return self._current_trigger(self.crafting.crafting_view(view), self._draw_s_val())

    def _draw_s_val(self) -> Batch:
        if self._s_val is None or self.resample:
            self._s_val = self.crafting.draw_s_val()
        return self._s_val

    def _current_trigger(self, view: View, s_val: Batch) -> Batch:
        """The trigger at the beginning of a round."""
        if self.mode == "clean":
            return self.clean_trigger
        if self._trigger is None and self.mode == "optimized":
            self._trigger = self.clean_trigger  # Algorithm 1: "Initialize P(S_T) = S_T"
        if self._trigger is None or self.mode == "recrafted":
            self._trigger = self._craft_trigger(view, s_val)
        return self._trigger

    def _craft_trigger(self, view: View, s_val: Batch) -> Batch:
        clean, crafting = self.clean_trigger, self.crafting
        if self.trigger_attack is not None:
            return self.trigger_attack.poison(clean, view, Phase.TRIGGER)
        gradient = crafting.normalized_gradient(view, s_val)
        return Batch(crafting.oppose(clean, view, gradient, self._trigger_mask), clean.y)

    def _direction(self, view: View, s_val: Batch, trigger: Batch) -> Tensors:
        """G_t; not computed for λ = 0."""
        if self.weight == 0:
            return {}
        crafting = self.crafting
        return crafting.derivatives.accumulation_direction(
            crafting.loss(view), view.trainable, s_val, trigger, crafting.settings.normalize
        )

    def _terms(self, clean_gradient: Tensors, direction: Tensors) -> list[tuple[float, Tensors]]:
        """The two terms of Eq. 9, as one sum unless each is a cosine of its own."""
        if self.weight == 0:
            return [(1.0, clean_gradient)]
        if self.crafting.settings.normalize_poisoned:
            return [(1.0, clean_gradient), (self.weight, direction)]
        return [(1.0, {name: value + self.weight * direction[name] for name, value in clean_gradient.items()})]

    def _move_trigger(self, view: View, s_val: Batch, poisoned: Batch, x_trigger: Tensor) -> Tensor:
        """P(x_T) ← proj(P(x_T) + α sign ∇ H_t). Only λ G_t depends on the trigger, and only the sign of λ matters."""
        if self.weight == 0:
            return x_trigger
        crafting, normalize = self.crafting, self.crafting.settings.normalize
        gradient = crafting.derivatives.accumulation_derivative(
            crafting.loss(view),
            view.trainable,
            s_val,
            Batch(x_trigger, self.clean_trigger.y),
            crafting.gradient(view, poisoned),
            normalize,
            normalize if crafting.settings.normalize_poisoned else "none",
        )
        gradient[~self._trigger_mask] = 0
        return crafting.budget.ball.step(x_trigger, gradient, crafting.step_size, self.clean_trigger.x)
