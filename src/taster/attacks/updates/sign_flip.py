"""Updates that point the other way."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from taster.attacks.update_attack import Collusion, UpdateCampaign
from taster.core.view import View
from taster.utils.settings import checked


@checked
def sign_flip(*, scale: Annotated[float, Field(gt=0)] = 1.0) -> UpdateCampaign:
    """Each of the attacker's clients sends its own honest update times −s.

    Args:
        scale: s.

    Source: Li et al. 2019 (RSA, "sign-flipping").
    """

    def flip(collusion: Collusion, view: View) -> Tensor:
        return -scale * collusion.own

    return UpdateCampaign.always(flip, alone=True)
