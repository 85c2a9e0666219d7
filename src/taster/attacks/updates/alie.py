"""A little is enough."""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated

from pydantic import Field
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.core.view import View
from taster.utils.settings import validate_settings


@validate_settings
def alie(*, deviations: Annotated[float, Field(gt=0)] | None = None) -> UpdateAttack:
    """All of the attacker's clients send the others' mean less z standard deviations of each coordinate.

    Args:
        deviations: z; None takes the largest for which a majority would still lie further out than they do, if
            updates are Gaussian.

    Source: Baruch et al. 2019, Algorithm 3.
    """

    def little(collusion: RoundKnowledge, view: View) -> Tensor:
        others, own = collusion.others, int(collusion.malicious.sum())
        z = max_deviations(len(collusion.values), own) if deviations is None else deviations
        deviation = others.std(0) if len(others) > 1 else others[0] * 0
        return (others.mean(0) - z * deviation).expand(own, -1)

    return UpdateAttack.always(little)


def max_deviations(clients: int, malicious: int) -> float:
    """z with Φ(z) = (n − k − s) / (n − k), s = ⌊n/2 + 1⌋ − k the honest ones that a majority needs; 0 where the
    attacker has one already."""
    honest, supporters = clients - malicious, clients // 2 + 1 - malicious
    if supporters <= 0 or honest <= supporters:
        return 0.0
    return max(0.0, NormalDist().inv_cdf((honest - supporters) / honest))
