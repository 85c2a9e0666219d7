"""Updates that are noise."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.core.view import View
from taster.utils.settings import validate_settings


@validate_settings
def gaussian_updates(generator: torch.Generator, *, scale: Annotated[float, Field(gt=0)] = 1.0) -> UpdateAttack:
    """Each of the attacker's clients sends Gaussian noise, as long as s times an honest update on average.

    A client by itself goes by the length of its own.

    Args:
        generator: draws it.
        scale: s.

    Source: Blanchard et al. 2017, Section 7 ("Gaussian"), its size given relative to honest updates.
    """

    def send(collusion: RoundKnowledge, view: View) -> Tensor:
        own = collusion.own
        drawn = torch.randn(own.shape, generator=generator, device=generator.device, dtype=own.dtype).to(own)
        length = torch.linalg.vector_norm(collusion.others, dim=1).mean()
        noise: Tensor = drawn * (scale * length / torch.linalg.vector_norm(drawn, dim=1, keepdim=True))
        return noise

    return UpdateAttack.always(send, needs_only_own_update=True)
