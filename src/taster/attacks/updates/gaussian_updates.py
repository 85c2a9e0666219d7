"""Gaussian noise instead of updates."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.core.threat import threat
from taster.core.view import View
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "grey box",
    "none",
    "none",
    "round",
    note="All that it needs is the length of honest updates, for which a client's own will do.",
)
@validate_settings
def gaussian_updates(generator: torch.Generator, *, scale: Annotated[float, Field(gt=0)] = 1.0) -> UpdateAttack:
    """Each of the attacker's clients sends Gaussian noise of s times the mean norm of the other clients' updates.

    A client that knows only its own update uses the norm of that one.

    Args:
        generator: draws it.
        scale: s.

    Source: Blanchard et al. 2017, Section 7 ("Gaussian"), its norm relative to honest updates.
    """

    def send(knowledge: RoundKnowledge, view: View) -> Tensor:
        own = knowledge.own
        drawn = torch.randn(own.shape, generator=generator, device=generator.device, dtype=own.dtype).to(own)
        length = torch.linalg.vector_norm(knowledge.others, dim=1).mean()
        noise: Tensor = drawn * (scale * length / torch.linalg.vector_norm(drawn, dim=1, keepdim=True))
        return noise

    return UpdateAttack.always(send, needs_only_own_update=True)
