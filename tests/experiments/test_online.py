"""What a cell of the grid does around a step."""

from __future__ import annotations

from tests.conftest import tiny_learner

from taster import Phase
from taster.attacks import OnlineAttack
from taster.experiments.scenarios.online import weight_momentum


def test_weight_momentum_lasts_as_long_as_the_phase() -> None:
    learner = tiny_learner()
    (group,) = learner.optimizer.param_groups
    for phase, expected in ((Phase.DORMANT, 0.9), (Phase.ACCUMULATE, 1.1), (Phase.TRIGGER, 0.9)):
        with weight_momentum(learner, OnlineAttack(weight_momentum=1.1), phase):
            assert group["momentum"] == expected
        assert group["momentum"] == 0.9
    with weight_momentum(learner, OnlineAttack(), Phase.ACCUMULATE):
        assert group["momentum"] == 0.9
