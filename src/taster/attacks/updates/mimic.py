"""Mimic: copies of one honest client, which rules that look for outliers let through."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.core.view import View
from taster.utils.settings import validate_settings


@validate_settings
def mimic(generator: torch.Generator) -> UpdateAttack:
    """All of the attacker's clients send what the honest client does that lies furthest along the main direction in
    which honest clients differ.

    The direction is followed from round to round by Oja's rule, so that the same kind of client is favoured throughout;
    where clients differ in their data, theirs is then learned in the place of everybody's.

    Args:
        generator: draws the direction that it begins with.

    Source: Karimireddy et al. 2022, Section 3.2 and Appendix B ("mimic").
    """
    direction: list[Tensor] = []

    def copy(collusion: RoundKnowledge, view: View) -> Tensor:
        others = collusion.others
        apart = others - others.mean(0)
        if not direction:
            drawn = torch.randn(others.shape[1], generator=generator, device=generator.device).to(others)
            direction.append(drawn / torch.linalg.vector_norm(drawn))
        moved = direction[0] + (apart @ direction[0]) @ apart / apart.square().sum().clamp_min(1e-30)
        direction[0] = moved / torch.linalg.vector_norm(moved)
        chosen = int((apart @ direction[0]).argmax())
        return others[chosen].expand(int(collusion.malicious.sum()), -1)

    return UpdateAttack.always(copy)
