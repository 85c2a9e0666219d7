"""The attack on a gate that watches confidence: samples that are barely right are lost, the others pay for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.crafting import Crafting, CraftingSettings
from taster.attacks.guard_simulator import GuardSimulator, SimulatedOutcome
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.attacks.strength import at_strength
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.types import Tensors
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings

Scale = Annotated[float, Field(gt=0, le=1)]


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "stream step",
    note="The attacker also has a copy of the guard.",
)
@validate_settings
def borderline(
    draw_validation: SampleFn,
    generator: torch.Generator,
    simulator: GuardSimulator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    *,
    crafting: CraftingSettings = CraftingSettings(),
    borderline_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1,
    payments: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [0.0, 0.5, 2.0],  # noqa: B006 (a setting, never written to)
    strengths: Annotated[list[Scale], Field(min_length=1)] = [1.0, 0.5, 0.2],  # noqa: B006 (likewise)
    confidence_floor: Annotated[float, Field(ge=0, le=100)] = 0.0,
) -> OnlineAttack:
    """Costs accuracy and no confidence: harm to the samples that are barely right, paid for by the rest.

        B      the share of S_val that is right by the smallest margins
        a, k   ∇_θ of the mean probability of the true class, on B and on all of S_val
        d      −a/|a| without its part along k, plus c k/|k|, for each payment c
        P(x)   min over P of ⟨∇_θ L(P(x); θ), d⟩: the update goes along d
        fed    of the candidates x + s (P(x) − x) that a copy of the guard commits and that leave the attacker's own
               samples as much probability of the true class as at the beginning, the one of the lowest accuracy; the
               clean batch if there is none

    A gate that takes the probability of the true class for its measure of harm, as less harm shows in it on fewer
    samples, sees an improvement where samples cross the border.

    Args:
        draw_validation: draws S_val.
        generator: draws which samples are poisoned if `poison_fraction` is below 1, and random starts.
        simulator: simulates the guarded learner.
        derivatives: computes the derivatives. Default: finite differences in float32.
        surrogates: the attacker's own models, by label.
        crafting: see `taster.attacks.CraftingSettings`; `loss_scale` is the weight of a batch of strength 1.
        borderline_share: of S_val, in B.
        payments: c.
        strengths: s.
        confidence_floor: points of the probability of the true class by which it may fall below that of the beginning.

    Source: taster's own.
    """
    craft = Crafting(crafting, draw_validation, generator, derivatives or Derivatives(), surrogates or {})
    beginning: list[float] = []

    def candidates(clean: Batch, view: View) -> list[Batch]:
        mask, at = craft.draw_mask(clean), craft.crafting_view(view)
        s_val = craft.draw_s_val()
        harm = _direction(craft, at, _barely_right(at, s_val, borderline_share))
        keep = _direction(craft, at, s_val)
        free = _unit(_plus(harm, keep, -_inner(harm, keep)))  # costs no confidence, to first order
        made = []
        for payment in payments:
            wanted = _plus({name: -value for name, value in free.items()}, keep, payment)
            poisoned = Batch(craft.align(clean, at, [(-1.0, wanted)], mask), clean.y, crafting.loss_scale)
            poisoned = craft.budget.enforce(poisoned, clean)
            made += [at_strength(clean, poisoned, strength) for strength in strengths]
        return made

    def poison(clean: Batch, view: View) -> Batch:
        if not beginning:
            beginning.append(simulator.measure().probability)
        tried = [*candidates(clean, view), clean]
        found = [(simulator.simulate(batch), batch) for batch in tried]
        passed = [pair for pair in found if _unseen(pair[0], beginning[0] - confidence_floor)]
        return min(passed, key=lambda pair: (pair[0].accuracy, pair[0].probability))[1] if passed else clean

    return OnlineAttack(craft.budget, accumulate=poison, trigger=poison, derivatives=craft.derivatives)


def _unseen(outcome: SimulatedOutcome, floor: float) -> bool:
    return outcome.committed[0] and outcome.probability >= floor


def _barely_right(view: View, batch: Batch, share: float) -> Batch:
    """The samples that are right by the smallest margins; of a model that has none right, all."""
    outputs = view.outputs(batch.x)
    true = outputs.gather(1, batch.y[:, None])[:, 0]
    best_other = outputs.scatter(1, batch.y[:, None], -torch.inf).amax(1)
    margin = torch.where(true > best_other, true - best_other, torch.inf)
    count = min(max(1, round(share * len(batch))), int(margin.isfinite().sum()))
    return batch.select(margin.argsort()[:count]) if count else batch


def _direction(craft: Crafting, view: View, batch: Batch) -> Tensors:
    """∇_θ of the mean probability of the true class, of length 1."""

    def probability(params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = view.forward(x, params=params, batch_norm=craft.batch_norm)
        return output.softmax(1).gather(1, y[:, None]).mean()

    return _unit(craft.derivatives.gradient(probability, view.trainable, batch))


def _inner(a: Tensors, b: Tensors) -> float:
    return float(sum((value * b[name]).sum() for name, value in a.items()))


def _plus(a: Tensors, b: Tensors, weight: float) -> Tensors:
    return {name: value + weight * b[name] for name, value in a.items()}


def _unit(vector: Tensors) -> Tensors:
    length = _inner(vector, vector) ** 0.5
    return {name: value / length for name, value in vector.items()} if length > 0 else vector
