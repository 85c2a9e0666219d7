"""Mimic: copies of one honest client, which outlier-based aggregation rules accept."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.core.threat import threat
from taster.core.view import View
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "none",
    "none",
    "round",
    note="Who is harmed most is whoever's data are unlike those of the client that is copied.",
)
@validate_settings
def mimic(generator: torch.Generator) -> UpdateAttack:
    """All of the attacker's clients copy the honest client that is farthest along the direction of largest variance.

    The direction is tracked over rounds by Oja's rule, so that the same kind of client is copied throughout; if clients
    have different data, that client's data is overrepresented in the aggregate.

    Args:
        generator: draws the initial direction.

    Source: Karimireddy et al. 2022, Section 3.2 and Appendix B ("mimic").
    """
    direction: list[Tensor] = []

    def copy(knowledge: RoundKnowledge, view: View) -> Tensor:
        others = knowledge.others
        apart = others - others.mean(0)
        if not direction:
            drawn = torch.randn(others.shape[1], generator=generator, device=generator.device).to(others)
            direction.append(drawn / torch.linalg.vector_norm(drawn))
        moved = direction[0] + (apart @ direction[0]) @ apart / apart.square().sum().clamp_min(1e-30)
        direction[0] = moved / torch.linalg.vector_norm(moved)
        chosen = int((apart @ direction[0]).argmax())
        return others[chosen].expand(int(knowledge.malicious.sum()), -1)

    return UpdateAttack.always(copy)
