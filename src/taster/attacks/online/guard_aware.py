"""The attacker who knows the guard: tries every batch on a copy of it and feeds the worst that passes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from taster.attacks.guard_simulator import GuardSimulator, SimulatedOutcome
from taster.attacks.online.accumulative import TriggerBatch, accumulative
from taster.attacks.online.vanilla_trigger import vanilla_trigger
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.core.types import Batch
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.perturbations.pgd import Norm
from taster.utils.settings import validate_settings

Share = Annotated[float, Field(gt=0, le=1)]
Goal = Literal["trigger", "immediate"]


@validate_settings
def guard_aware(
    trigger: Batch,
    draw_validation: SampleFn,
    generator: torch.Generator,
    simulator: GuardSimulator,
    derivatives: Derivatives | None = None,
    *,
    goal: Goal = "trigger",
    epsilon: Annotated[float, Field(ge=0)] = 8 / 255,
    norm: Norm = "linf",
    pgd_steps: Annotated[int, Field(ge=1)] = 100,
    poison_fraction: Share = 1.0,
    accumulation_weight: Annotated[float, Field(ge=0)] = 1.0,
    trigger_batch: TriggerBatch = "fixed",
    validation_size: Annotated[int, Field(ge=1)] = 100,
    loss_scale: Annotated[float, Field(gt=0)] = 1.0,
    victim_class: Annotated[int, Field(ge=0)] | None = None,
    lookahead: Annotated[int, Field(ge=0)] = 0,
    perturbation_scales: Annotated[list[Share], Field(min_length=1)] = [1.0, 0.7, 0.4, 0.2],  # noqa: B006 (a setting, never written to)
) -> OnlineAttack:
    """Poison of which each batch has as large a share as a copy of the guard lets pass with most harm.

        candidates  x + s (A_t(x) − x) for each share s, and x itself
        fed         of the candidates that the copy of the guard commits, the one with the lowest accuracy on the
                    attacker's samples afterwards; x where it commits none
        trigger     likewise; where none passes, the smallest share

    The attacker holds the model, the optimizer, the guard's code and settings and samples of the same distribution, but
    not the guard's trusted samples.

    Args:
        trigger: the clean trigger batch S_T.
        draw_validation: draws S_val.
        generator: draws which samples are poisoned, where `poison_fraction` is under 1.
        simulator: the copy to try on.
        derivatives: how they are computed; by default held differences in float32.
        goal: "trigger" feeds accumulative poison, and measures after the trigger as it would be made now; "immediate" makes
            every batch by Eq. 6, as if it were the trigger, and measures right after it: a slow drift under the guard's
            level. (A greedy `vanilla_trigger` of a large `loss_scale` is what makes a guard refuse everything.)
        epsilon: ε, in the units of the data.
        norm: of the ball.
        pgd_steps: C.
        poison_fraction: share of each batch that is poisoned.
        accumulation_weight: λ.
        trigger_batch: see `taster.attacks.online.accumulative`.
        validation_size: samples in S_val.
        loss_scale: factor on the loss of the trigger, and of every batch where the goal is "immediate".
        victim_class: S_val is of this class alone.
        lookahead: clean batches that are tried after a candidate and must be committed as well: an attacker who waits
            for the period of a guard that checks every m steps takes m − 1, and does harm in between that is gone when
            the guard looks.
        perturbation_scales: s.

    Source: taster's own; that a defence is to be tried by attackers who know it is Tramer et al. 2020.
    """
    common: dict[str, Any] = {
        "epsilon": epsilon,
        "norm": norm,
        "pgd_steps": pgd_steps,
        "poison_fraction": poison_fraction,
        "validation_size": validation_size,
        "loss_scale": loss_scale,
        "victim_class": victim_class,
    }
    if goal == "immediate":
        inner = vanilla_trigger(draw_validation, generator, derivatives, greedy=True, **common)
    else:
        inner = accumulative(
            trigger,
            draw_validation,
            generator,
            derivatives,
            accumulation_weight=accumulation_weight,
            trigger_batch=trigger_batch,
            **common,
        )
    assert inner.accumulate is not None
    assert inner.trigger is not None
    craft, strike = inner.accumulate, inner.trigger

    def candidates(clean: Batch, poisoned: Batch) -> list[Batch]:
        made = [
            Batch(clean.x + share * (poisoned.x - clean.x), clean.y, poisoned.loss_weight)
            for share in sorted(perturbation_scales, reverse=True)
        ]
        return [inner.budget.enforce(batch, clean) for batch in made]

    def worst(batches: list[Batch], *blow: Batch) -> Batch | None:
        future = [draw_validation(len(batches[0])) for _ in range(lookahead)]
        return _worst(batches, [simulator.simulate(batch, *blow, afterwards=future) for batch in batches], len(blow))

    def accumulate(clean: Batch, view: View) -> Batch:
        tried = [*candidates(clean, craft(clean, view)), clean]
        found = worst(tried, *([strike(trigger, view)] if goal == "trigger" else []))
        return clean if found is None else found

    def last(clean: Batch, view: View) -> Batch:
        tried = candidates(clean, strike(clean, view))
        found = worst(tried)
        return tried[-1] if found is None else found

    return OnlineAttack(inner.budget, accumulate=accumulate, trigger=last, derivatives=inner.derivatives)


def _worst(batches: list[Batch], outcomes: list[SimulatedOutcome], blows: int) -> Batch | None:
    """The batch of the lowest accuracy afterwards among those that were committed, with all that is to come but the
    blow, which is for later."""
    passed = [
        (outcome.accuracy, i)
        for i, outcome in enumerate(outcomes)
        if outcome.committed[0] and all(outcome.committed[1 + blows :])
    ]
    return batches[min(passed)[1]] if passed else None
