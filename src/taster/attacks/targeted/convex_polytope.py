"""Convex polytope: poisons whose features have the target's in their convex hull."""

from __future__ import annotations

from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack
from taster.attacks.targeted.convex_combination import convex_coefficients
from taster.attacks.targeted.polytope import PolytopeSettings, polytope_attack
from taster.attacks.targeted.surrogate_features import SurrogateSettings
from taster.attacks.targeted.targets import TargetSettings
from taster.core.threat import threat
from taster.utils.setting_types import PositiveFloat
from taster.utils.settings import validate_settings


@threat("targeted", "integrity", "white box", "individual", "feature space", "before training")
@validate_settings
def convex_polytope(
    *,
    target: TargetSettings = TargetSettings(),
    surrogate: SurrogateSettings = SurrogateSettings(),
    polytope: PolytopeSettings = PolytopeSettings(),
    gap: PositiveFloat = 1e-4,
) -> DatasetAttack:
    """Moves samples of the wanted class, under their own labels, so that a convex combination of their features meets
    the target's in every net: a linear classifier that puts all of them into their class then puts the target there.

    In turns the coefficients are found, for each net, layer and target, and the samples make a step in the ball. Of
    several targets each has coefficients of its own.

    Args:
        target: what is wanted.
        surrogate: whose features.
        polytope: see `taster.attacks.PolytopeSettings`.
        gap: to which the coefficients are solved; see `convex_coefficients`.

    Raises (when it poisons):
        AttackError: for classes, targets or bases that there are not, and a model that is no net.
        ModelError: for a layer that there is not.

    Source: Zhu et al. 2019, Eq. 2 and Algorithm 1. Their nets drop out features while poison is made, for black boxes;
        here nothing is dropped, and features of layers inside are averaged over places.
    """

    def combine(points: Tensor, goals: Tensor, before: Tensor | None) -> Tensor:
        return convex_coefficients(points.expand(len(goals), *points.shape), goals, start=before, tolerance=gap)

    return polytope_attack("convex_polytope", combine, target, surrogate, polytope, mean_target=False)
