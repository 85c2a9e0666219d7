"""The guard-aware attack: tries every batch on a copy of the guard and feeds the most harmful one that is committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field

from taster.attacks.crafting import CraftingSettings
from taster.attacks.guard_simulator import GuardSimulator, SimulatedOutcome
from taster.attacks.online.accumulative import TriggerBatch, accumulative
from taster.attacks.online.vanilla_trigger import vanilla_trigger
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.core.types import Batch
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings

Scale = Annotated[float, Field(gt=0, le=1)]
Goal = Literal["trigger", "immediate"]


@validate_settings
def guard_aware(
    trigger: Batch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    simulator: GuardSimulator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    *,
    crafting: CraftingSettings = CraftingSettings(),
    goal: Goal = "trigger",
    accumulation_weight: Annotated[float, Field(ge=0)] = 1.0,
    trigger_batch: TriggerBatch = "fixed",
    lookahead: Annotated[int, Field(ge=0)] = 0,
    perturbation_scales: Annotated[list[Scale], Field(min_length=1)] = [1.0, 0.7, 0.4, 0.2],  # noqa: B006 (a setting, never written to)
) -> OnlineAttack:
    """Poison scaled down until a copy of the guard commits it.

        candidates  x + s (A_t(x) − x) for each scale s, and x itself
        fed         of the candidates that the copy of the guard commits, the one with the lowest accuracy on the
                    attacker's samples afterwards; x if it commits none
        trigger     likewise; the smallest scale if it commits none

    The attacker holds the model, the optimizer, the guard's code and settings and samples of the same distribution, but
    not the guard's trusted samples.

    Args:
        trigger: the clean trigger batch S_T.
        draw_validation: draws S_val.
        generator: draws which samples are poisoned if `poison_fraction` is below 1, and random starts.
        simulator: simulates the guarded learner.
        derivatives: computes the derivatives. Default: finite differences in float32.
        surrogates: the attacker's own models, by label.
        crafting: see `taster.attacks.CraftingSettings`. With the goal "immediate" `loss_scale` applies to every batch.
        goal: "trigger" feeds accumulative poison, and measures harm after the trigger crafted at that moment;
            "immediate" makes every batch by Eq. 6, as if it were the trigger, and measures harm right after it: a slow
            drift under the guard's significance level. (A greedy `vanilla_trigger` with a large `loss_scale` makes a
            guard refuse everything.)
        accumulation_weight: λ.
        trigger_batch: see `taster.attacks.accumulative`.
        lookahead: number of clean batches that are simulated after a candidate and have to be committed as well. For a
            guard that checks every m steps an attacker takes m − 1: harm done in between is undone at the next check.
        perturbation_scales: s.

    Source: taster's own; that a defence is to be tried by attackers who know it is Tramer et al. 2020.
    """
    if goal == "immediate":
        inner = vanilla_trigger(draw_validation, generator, derivatives, surrogates, crafting=crafting, greedy=True)
    else:
        inner = accumulative(
            trigger,
            draw_validation,
            generator,
            derivatives,
            surrogates,
            crafting=crafting,
            accumulation_weight=accumulation_weight,
            trigger_batch=trigger_batch,
        )
    assert inner.accumulate is not None
    assert inner.trigger is not None
    craft, strike = inner.accumulate, inner.trigger

    def candidates(clean: Batch, poisoned: Batch) -> list[Batch]:
        made = [
            Batch(clean.x + scale * (poisoned.x - clean.x), clean.y, poisoned.loss_weight)
            for scale in sorted(perturbation_scales, reverse=True)
        ]
        return [inner.budget.enforce(batch, clean) for batch in made]

    def worst(batches: list[Batch], *strikes: Batch) -> Batch | None:
        future = [draw_validation(len(batches[0])) for _ in range(lookahead)]
        outcomes = [simulator.simulate(batch, *strikes, afterwards=future) for batch in batches]
        return _most_harmful(batches, outcomes, len(strikes))

    def accumulate(clean: Batch, view: View) -> Batch:
        tried = [*candidates(clean, craft(clean, view)), clean]
        found = worst(tried, *([strike(trigger, view)] if goal == "trigger" else []))
        return clean if found is None else found

    def last(clean: Batch, view: View) -> Batch:
        tried = candidates(clean, strike(clean, view))
        found = worst(tried)
        return tried[-1] if found is None else found

    return OnlineAttack(inner.budget, accumulate=accumulate, trigger=last, derivatives=inner.derivatives)


def _most_harmful(batches: list[Batch], outcomes: list[SimulatedOutcome], strikes: int) -> Batch | None:
    """The committed batch with the lowest accuracy after it; None if none was committed.

    Whether the trigger (the `strikes` batches after it) would be committed too is not asked: it comes later.
    """
    passed = [
        (outcome.accuracy, i)
        for i, outcome in enumerate(outcomes)
        if outcome.committed[0] and all(outcome.committed[1 + strikes :])
    ]
    return batches[min(passed)[1]] if passed else None
