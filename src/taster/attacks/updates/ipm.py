"""Inner product manipulation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.core.threat import threat
from taster.core.view import View
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "white box", "none", "none", "round")
@validate_settings
def ipm(*, scale: Annotated[float, Field(gt=0)] = 1.0) -> UpdateAttack:
    """All of the attacker's clients send the mean of the others' updates times −s.

    Args:
        scale: s, "ε" in the paper. Small values hide among honest updates; large ones reverse the mean.

    Source: Xie et al. 2020 ("Fall of Empires"), Section 4.
    """

    def against(knowledge: RoundKnowledge, view: View) -> Tensor:
        return (-scale * knowledge.others.mean(0)).expand(int(knowledge.malicious.sum()), -1)

    return UpdateAttack.always(against)
