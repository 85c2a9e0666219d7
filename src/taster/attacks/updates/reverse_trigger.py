"""The scaled trigger of federated learning: one round of updates that point the other way."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.update_attack import Collusion, UpdateBudget, UpdateCampaign
from taster.attacks.updates.recovered_offset import recovered_offset, spread_out
from taster.core.view import View
from taster.perturbations.pgd import Norm
from taster.utils.settings import checked


@checked
def reverse_trigger(
    generator: torch.Generator,
    *,
    loss_scale: Annotated[float, Field(gt=0)] = 1.0,
    eta: Annotated[float, Field(gt=0)] | None = None,
    norm: Norm = "l2",
    spread: Annotated[float, Field(ge=0)] = 0.1,
    clip_before: Annotated[float, Field(gt=0)] | None = None,
    clip_norm: Norm = "l2",
) -> UpdateCampaign:
    """Honest rounds, and a trigger whose mean is the clean one's times −s, whatever share of clients is the attacker's.

        mean of P(Gₙ) = −s · mean of ∇_θ L(Sₙ; θ_T)

    Args:
        generator: draws what keeps clients from sending the same.
        loss_scale: s, "loss scaling" in Tables 3 to 5.
        eta: the greatest length of what a client sends; None for no bound.
        norm: of eta.
        spread: length of the random vectors over that of what they are added to.
        clip_before: the bound to which the attacker knows the server to scale each update.
        clip_norm: of that bound.

    Source: Pang et al. 2021, Section 3.3 ("Reverse trigger"), without an accumulative phase.
    """

    def strike(collusion: Collusion, view: View) -> Tensor:
        row = recovered_offset(collusion, -loss_scale * collusion.mean(), clip_before, clip_norm)
        return spread_out(row, collusion.weights[collusion.malicious], spread, generator)

    return UpdateCampaign(UpdateBudget(eta, norm), trigger=strike)
