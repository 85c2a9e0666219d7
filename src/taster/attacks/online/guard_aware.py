"""The guard-aware attack: tries every batch on a copy of the guard and feeds the most harmful one that is committed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field

from taster.attacks.crafting import CraftingSettings
from taster.attacks.guard_simulator import GuardSimulator
from taster.attacks.online.accumulative import TriggerBatch, accumulative
from taster.attacks.online.vanilla_trigger import vanilla_trigger
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings

Scale = Annotated[float, Field(gt=0, le=1)]
Goal = Literal["trigger", "immediate"]


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "accumulative then trigger",
    note='The attacker also has a copy of the guard; with goal = "immediate" each batch does harm by itself.',
)
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
    halvings: Annotated[int, Field(ge=0)] = 0,
    max_step_drop: Annotated[float, Field(gt=0)] | None = None,
    every: Annotated[int, Field(ge=1)] = 1,
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
        halvings: how often the interval between the greatest scale that passes and the next greater one is halved, to
            go as far as the guard lets one.
        max_step_drop: the most that a batch may cost of the true class's mean probability on the attacker's samples,
            in points: a drift below every limit of a step. None: whatever the guard commits.
        every: one batch in so many is poisoned, and the others are honest; the trigger always is.

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

    batches_seen = itertools.count()

    def scaled(clean: Batch, poisoned: Batch, scale: float) -> Batch:
        batch = Batch(clean.x + scale * (poisoned.x - clean.x), clean.y, poisoned.loss_weight)
        return inner.budget.enforce(batch, clean)

    def worst(clean: Batch, poisoned: Batch, *strikes: Batch, or_clean: bool) -> Batch | None:
        """The most harmful of the candidates that pass: those of all scales, those found by halving, and x itself."""
        future = [draw_validation(len(clean)) for _ in range(lookahead)]
        floor = -math.inf if max_step_drop is None else simulator.measure().probability - max_step_drop
        passed: list[tuple[tuple[float, float], Batch]] = []

        def passes(batch: Batch) -> bool:
            outcome = simulator.simulate(batch, *strikes, afterwards=future)
            # Whether the strikes would be committed too is not asked: they come later.
            found = outcome.committed[0] and all(outcome.committed[1 + len(strikes) :])
            if found and max_step_drop is not None:
                own = outcome if not strikes else simulator.simulate(batch)
                found = own.probability >= floor
            if found:
                passed.append(((outcome.accuracy, math.inf if batch is clean else outcome.probability), batch))
            return found

        scales = sorted(perturbation_scales, reverse=True)
        verdicts = {scale: passes(scaled(clean, poisoned, scale)) for scale in scales}
        low = max((scale for scale, found in verdicts.items() if found), default=0.0)
        high = min((scale for scale in scales if scale > low), default=low)
        for _ in range(halvings if low < high else 0):
            middle = (low + high) / 2
            if passes(scaled(clean, poisoned, middle)):
                low = middle
            else:
                high = middle
        if or_clean:
            passes(clean)
        return min(passed, key=lambda found: found[0])[1] if passed else None

    def accumulate(clean: Batch, view: View) -> Batch:
        if next(batches_seen) % every:
            return clean
        found = worst(clean, craft(clean, view), *([strike(trigger, view)] if goal == "trigger" else []), or_clean=True)
        return clean if found is None else found

    def last(clean: Batch, view: View) -> Batch:
        poisoned = strike(clean, view)
        found = worst(clean, poisoned, or_clean=False)
        return scaled(clean, poisoned, min(perturbation_scales)) if found is None else found

    return OnlineAttack(inner.budget, accumulate=accumulate, trigger=last, derivatives=inner.derivatives)
