"""The attack without a copy of the guard: it learns from the verdicts how far it can go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.crafting import CraftingSettings
from taster.attacks.online.vanilla_trigger import vanilla_trigger
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.attacks.strength import at_strength
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.types import Tensors
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "stream step",
    note="White box as to the model; of the guard the attacker sees the verdicts alone.",
)
@validate_settings
def verdict_steering(
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    *,
    crafting: CraftingSettings = CraftingSettings(),
    first_strength: Annotated[float, Field(gt=0, le=1)] = 0.1,
    growth: Annotated[float, Field(gt=1)] = 1.3,
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5,
) -> OnlineAttack:
    """Poison that grows with every batch that was learned, and shrinks with every one that was refused.

        x + s (P(x) − x)    P by Eq. 6 of Pang et al.; s the strength
        s ← growth · s      if the model has changed since the last batch, at most 1
        s ← shrink · s      if it has not

    The attacker sees the model, and so which of his batches were learned: for each a bit about the guard's trusted
    samples, which he has no others of. A batch that was learned in part counts as learned.

    Args:
        draw_validation: draws S_val.
        generator: draws which samples are poisoned if `poison_fraction` is below 1, and random starts.
        derivatives: computes the derivatives. Default: finite differences in float32.
        surrogates: the attacker's own models, by label.
        crafting: see `taster.attacks.CraftingSettings`; `loss_scale` is the weight of a batch of strength 1.
        first_strength: s of the first batch.
        growth: after a batch that was learned.
        shrink: after one that was refused.

    Source: taster's own; that answers leak what is held back is Blum and Hardt 2015.
    """
    inner = vanilla_trigger(draw_validation, generator, derivatives, surrogates, crafting=crafting, greedy=True)
    craft = inner.accumulate
    assert craft is not None
    steering = _Steering(first_strength, growth, shrink)

    def poison(clean: Batch, view: View) -> Batch:
        strength = steering.next_strength(view.params)
        return at_strength(clean, inner.budget.enforce(craft(clean, view), clean), strength)

    return OnlineAttack(inner.budget, accumulate=poison, trigger=poison, derivatives=inner.derivatives)


class _Steering:
    """The strength, and the parameters by which the attacker tells what became of his last batch."""

    def __init__(self, first: float, growth: float, shrink: float) -> None:
        self._strength, self._growth, self._shrink = first, growth, shrink
        self._last: Tensors | None = None

    def next_strength(self, params: Tensors) -> float:
        """The strength of the next batch, for the parameters that it meets."""
        if self._last is not None:
            learned = any(not torch.equal(value, self._last[name]) for name, value in params.items())
            self._strength = min(1.0, self._strength * (self._growth if learned else self._shrink))
        self._last = {name: value.detach().clone() for name, value in params.items()}
        return self._strength
