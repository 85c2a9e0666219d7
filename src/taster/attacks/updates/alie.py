"""A little is enough."""

from __future__ import annotations

from statistics import NormalDist
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
    "white box",
    "none",
    "none",
    "round",
    note=(
        "The paper estimates the others' mean and deviation from the attacker's own clients, which would be grey box."
    ),
)
@validate_settings
def alie(*, deviations: Annotated[float, Field(gt=0)] | None = None) -> UpdateAttack:
    """All of the attacker's clients send the others' mean minus z standard deviations, coordinate by coordinate.

    Args:
        deviations: z. Default: the largest z with which a majority of Gaussian updates would still be farther from the
            mean, see `max_deviations`.

    Source: Baruch et al. 2019, Algorithm 3.
    """

    def little(knowledge: RoundKnowledge, view: View) -> Tensor:
        others, own = knowledge.others, int(knowledge.malicious.sum())
        z = max_deviations(len(knowledge.values), own) if deviations is None else deviations
        deviation = others.std(0) if len(others) > 1 else others[0] * 0
        return (others.mean(0) - z * deviation).expand(own, -1)

    return UpdateAttack.always(little)


def max_deviations(clients: int, malicious: int) -> float:
    """z with Φ(z) = (n − k − s) / (n − k), s = ⌊n/2 + 1⌋ − k the number of honest clients that complete a
    majority; 0 if the attacker has a majority."""
    honest, supporters = clients - malicious, clients // 2 + 1 - malicious
    if supporters <= 0 or honest <= supporters:
        return 0.0
    return max(0.0, NormalDist().inv_cdf((honest - supporters) / honest))
