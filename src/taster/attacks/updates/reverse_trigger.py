"""The scaled trigger of federated learning: a single round of reversed updates."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack, UpdateSettings
from taster.attacks.updates.recovered_offset import distribute
from taster.core.threat import threat
from taster.core.view import View
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "white box", "none", "none", "round")
@validate_settings
def reverse_trigger(generator: torch.Generator, *, update: UpdateSettings = UpdateSettings()) -> UpdateAttack:
    """Honest rounds, then a trigger whose mean is the clean one's times −s, whatever fraction of clients is malicious.

        mean of P(Gₙ) = −s · mean of ∇_θ L(Sₙ; θ_T)

    Args:
        generator: draws the Mₙ.
        update: see `taster.attacks.UpdateSettings`; s is `loss_scale`.

    Source: Pang et al. 2021, Section 3.3 ("Reverse trigger"), without an accumulative phase.
    """

    def strike(knowledge: RoundKnowledge, view: View) -> Tensor:
        return distribute(knowledge, -update.loss_scale * knowledge.mean(), update, generator)

    return UpdateAttack(update.budget, trigger=strike)
