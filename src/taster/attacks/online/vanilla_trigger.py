"""The poisoned trigger by itself: a single batch crafted to undo what the model has learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from taster.attacks.crafting import Crafting, CraftingSettings
from taster.attacks.online_attack import OnlineAttack, SampleFn
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
    "stream step",
    note=(
        "Training is looked ahead to by one step, to first order; with `victim_class` it is targeted, with "
        "`surrogate` grey box."
    ),
)
@validate_settings
def vanilla_trigger(
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    surrogates: Mapping[str, View] | None = None,
    *,
    crafting: CraftingSettings = CraftingSettings(),
    greedy: bool = False,
) -> OnlineAttack:
    """A trigger batch whose gradient opposes that of the validation loss; the stream stays clean unless it is greedy.

        min over P of ⟨∇_θ L(S_val; θ_T), ∇_θ L(P(S_T); θ_T)⟩

    Args:
        draw_validation: draws S_val.
        generator: draws which samples are poisoned if `poison_fraction` is below 1, and random starts.
        derivatives: computes the derivatives. Default: finite differences in float32.
        surrogates: the attacker's own models, by label.
        crafting: see `taster.attacks.CraftingSettings`.
        greedy: whether to poison every batch of the stream in this way. This is the online attack that the accumulative
            one is compared with (Pang et al. 2021, Fig. 1, left); it starves a guard that refuses whatever does harm.

    Source: Pang et al. 2021, Eq. 6 ("poisoned trigger").
    """
    craft = Crafting(crafting, draw_validation, generator, derivatives or Derivatives(), surrogates or {})

    def trigger(clean: Batch, view: View) -> Batch:
        mask = craft.draw_mask(clean)
        s_val, view = craft.draw_s_val(), craft.crafting_view(view)
        x = craft.oppose(clean, view, craft.normalized_gradient(view, s_val), mask)
        return Batch(x, clean.y, crafting.loss_scale)

    stream = trigger if greedy else None
    return OnlineAttack(craft.budget, accumulate=stream, trigger=trigger, derivatives=craft.derivatives)
