"""The attack on a gate that learns from committed changes how much honest steps swing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.crafting import Crafting, CraftingSettings
from taster.attacks.guard_simulator import GuardSimulator, SimulatedOutcome
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.attacks.strength import at_strength, is_committed, strongest
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "accumulative then trigger",
    note=(
        "The attacker also has a copy of the guard; what accumulates is the room that it gives, not the "
        "model's sensitivity."
    ),
)
@validate_settings
def swing_widening(
    draw_validation: SampleFn,
    generator: torch.Generator,
    simulator: GuardSimulator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    *,
    crafting: CraftingSettings = CraftingSettings(),
    halvings: Annotated[int, Field(ge=0)] = 3,
    repairs: Annotated[int, Field(ge=1)] = 1,
    slack: Annotated[float, Field(ge=0)] = 0.5,
) -> OnlineAttack:
    """Harm and repair in turn, each as great as a copy of the guard commits, until a great harm is nothing unusual.

        harm      x + s (P(x) − x), with P by Eq. 6 of Pang et al. and the greatest s that the copy commits
        repair    the same with the opposite sign: the batch that helps the most, if it is committed
        trigger   harm

    A gate that takes for harm what is an outlier among the last committed changes gives more room after changes that
    were just inside. One in ten of them is enough to move the 90 % quantile, and a limit of five scales then grows
    threefold with each round. Repair returns to the level of the beginning, so that nothing shows against an anchor.

    Args:
        draw_validation: draws S_val.
        generator: draws which samples are poisoned if `poison_fraction` is below 1, and random starts.
        simulator: simulates the guarded learner.
        derivatives: computes the derivatives. Default: finite differences in float32.
        surrogates: the attacker's own models, by label.
        crafting: see `taster.attacks.CraftingSettings`; `loss_scale` is the greatest weight of any batch.
        halvings: of the interval of strengths, in the search for the greatest that is committed.
        repairs: batches at least that repair after one that harms; more follow until the probability of the true class
            is what it was at the beginning, on the attacker's samples.
        slack: points that may be missing of it.

    Source: taster's own.
    """
    craft = Crafting(crafting, draw_validation, generator, derivatives or Derivatives(), surrogates or {})
    state = _Rounds(repairs, slack)

    def crafted(clean: Batch, view: View, sign: float) -> Batch:
        mask, s_val, at = craft.draw_mask(clean), craft.draw_s_val(), craft.crafting_view(view)
        x = craft.align(clean, at, [(sign, craft.normalized_gradient(at, s_val))], mask)
        return craft.budget.enforce(Batch(x, clean.y, crafting.loss_scale), clean)

    def greatest(clean: Batch, view: View, sign: float) -> tuple[Batch, SimulatedOutcome] | None:
        poisoned = crafted(clean, view, sign)
        found = strongest(simulator, lambda s: at_strength(clean, poisoned, s), is_committed, halvings)
        return None if found is None else found[1:]

    def accumulate(clean: Batch, view: View) -> Batch:
        now = simulator.measure().probability
        if state.harms_next(now):
            found = greatest(clean, view, -1.0)
            return clean if found is None else found[0]
        found = greatest(clean, view, 1.0)
        # A repair that helps less than the honest batch is none.
        honest = simulator.simulate(clean)
        return clean if found is None or found[1].probability < honest.probability else found[0]

    def trigger(clean: Batch, view: View) -> Batch:
        found = greatest(clean, view, -1.0)
        return clean if found is None else found[0]

    return OnlineAttack(craft.budget, accumulate=accumulate, trigger=trigger, derivatives=craft.derivatives)


class _Rounds:
    """Whether it is the turn of harm or of repair."""

    def __init__(self, repairs: int, slack: float) -> None:
        self._repairs = repairs
        self._slack = slack
        self._level: float | None = None
        self._since = repairs

    def harms_next(self, probability: float) -> bool:
        """Counts a batch, and says whether it is one that harms."""
        if self._level is None:
            self._level = probability
        harms = self._since >= self._repairs and probability >= self._level - self._slack
        self._since = 0 if harms else self._since + 1
        return harms
