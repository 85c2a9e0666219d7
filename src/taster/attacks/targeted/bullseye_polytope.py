"""Bullseye polytope: poisons whose features have the target's at their center."""

from __future__ import annotations

from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack
from taster.attacks.targeted.polytope import PolytopeSettings, polytope_attack
from taster.attacks.targeted.surrogate_features import SurrogateSettings
from taster.attacks.targeted.targets import TargetSettings
from taster.core.threat import threat
from taster.utils.settings import validate_settings


@threat("targeted", "integrity", "white box", "individual", "feature space", "before training")
@validate_settings
def bullseye_polytope(
    *,
    target: TargetSettings = TargetSettings(),
    surrogate: SurrogateSettings = SurrogateSettings(),
    polytope: PolytopeSettings = PolytopeSettings(),
) -> DatasetAttack:
    """Moves samples of the wanted class, under their own labels, so that the mean of their features meets the target's
    in every net: the target lies deep within their polytope, where a convex polytope may leave it at the rim.

    Of several targets (views of one object, say) the mean of their features is met.

    Args:
        target: what is wanted.
        surrogate: whose features.
        polytope: see `taster.attacks.PolytopeSettings`.

    Raises (when it poisons):
        AttackError: for classes, targets or bases that there are not, and a model that is no net.
        ModelError: for a layer that there is not.

    Source: Aghakhani et al. 2021 (Bullseye Polytope), with several targets as in its multi-target mode.
    """

    def combine(points: Tensor, goals: Tensor, before: Tensor | None) -> Tensor:
        return points.new_full((len(goals), len(points)), 1 / len(points))

    return polytope_attack("bullseye_polytope", combine, target, surrogate, polytope, mean_target=True)
