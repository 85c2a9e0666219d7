"""Sign flipping: negated updates."""

from __future__ import annotations

from typing import Annotated

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
    note="A client knows its own update, and nothing of the others'.",
)
@validate_settings
def sign_flip(*, scale: Annotated[float, Field(gt=0)] = 1.0) -> UpdateAttack:
    """Each of the attacker's clients sends its own honest update times −s.

    Args:
        scale: s.

    Source: Li et al. 2019 (RSA, "sign-flipping").
    """

    def flip(knowledge: RoundKnowledge, view: View) -> Tensor:
        return -scale * knowledge.own

    return UpdateAttack.always(flip, needs_only_own_update=True)
