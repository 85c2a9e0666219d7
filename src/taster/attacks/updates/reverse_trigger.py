"""The scaled trigger of federated learning: one round of updates that point the other way."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack, UpdateBudget
from taster.attacks.updates.recovered_offset import add_zero_sum_noise, recovered_offset
from taster.core.view import View
from taster.perturbations.pgd import Norm
from taster.utils.settings import validate_settings


@validate_settings
def reverse_trigger(
    generator: torch.Generator,
    *,
    loss_scale: Annotated[float, Field(gt=0)] = 1.0,
    max_norm: Annotated[float, Field(gt=0)] | None = None,
    norm: Norm = "l2",
    noise_scale: Annotated[float, Field(ge=0)] = 0.1,
    server_clip_norm: Annotated[float, Field(gt=0)] | None = None,
    server_clip_norm_type: Norm = "l2",
) -> UpdateAttack:
    """Honest rounds, and a trigger whose mean is the clean one's times −s, whatever share of clients is the attacker's.

        mean of P(Gₙ) = −s · mean of ∇_θ L(Sₙ; θ_T)

    Args:
        generator: draws what keeps clients from sending the same.
        loss_scale: s, "loss scaling" in Tables 3 to 5.
        max_norm: the greatest length of what a client sends; None for no bound.
        norm: of max_norm.
        noise_scale: length of the random vectors over that of what they are added to.
        server_clip_norm: the bound to which the attacker knows the server to scale each update.
        server_clip_norm_type: of that bound.

    Source: Pang et al. 2021, Section 3.3 ("Reverse trigger"), without an accumulative phase.
    """

    def strike(collusion: RoundKnowledge, view: View) -> Tensor:
        row = recovered_offset(collusion, -loss_scale * collusion.mean(), server_clip_norm, server_clip_norm_type)
        return add_zero_sum_noise(row, collusion.weights[collusion.malicious], noise_scale, generator)

    return UpdateAttack(UpdateBudget(max_norm, norm), trigger=strike)
