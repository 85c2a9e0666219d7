"""Direct and generative poisoning as the trigger of the accumulative phase."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import RATE, draw_easy, easy_batch, easy_learner, make_attack

from taster import Batch, Phase, View
from taster.attacks import OnlineAttack, accumulative
from taster.errors import AttackError, SettingError


def phase(trigger_batch: str = "fixed", **settings: Any) -> OnlineAttack:
    given = {"trigger": easy_batch(2, seed=50), "draw_validation": draw_easy, "learning_rate": RATE}
    own = {"trigger_batch": trigger_batch, "validation_size": 20, "pgd_steps": 2, "epsilon": 0.05}
    return make_attack("accumulative", given=given, **own, **settings)


def struck(attack: OnlineAttack, view: View) -> Batch:
    attack.poison(easy_batch(8, seed=60), view, Phase.ACCUMULATE)
    return attack.poison(easy_batch(2, seed=50), view, Phase.TRIGGER)


@pytest.mark.parametrize("by", ["direct_gradient", "generative"])
def test_both_can_be_the_trigger_of_the_accumulative_phase(by: str) -> None:
    view = easy_learner().view()
    settings = {
        "group_size": 20,
        "iterations": 3,
        "keep": "last",
        **({} if by == "direct_gradient" else {"pretraining_size": 20}),
    }
    attack = phase(trigger_attack=by, trigger_settings=settings)
    stream = attack.poison(easy_batch(8, seed=60), view, Phase.ACCUMULATE)
    assert torch.equal(stream.y, easy_batch(8, seed=60).y)
    assert 0 < float((stream.x - easy_batch(8, seed=60).x).abs().max()) <= 0.05 + 1e-6
    fed = attack.poison(easy_batch(2, seed=50), view, Phase.TRIGGER)
    assert bool((fed.y != easy_batch(2, seed=50).y).all())
    assert float((fed.x - easy_batch(2, seed=50).x).abs().max()) > 0.05
    assert attack.trace is not None
    assert len(attack.trace.losses) > 1
    # The phase looks towards this trigger: another one leads elsewhere.
    plain = phase().poison(easy_batch(8, seed=60), view, Phase.ACCUMULATE)
    assert not torch.equal(plain.x, stream.x)


def test_such_a_trigger_is_fixed_or_recrafted() -> None:
    model = easy_learner()
    for mode, same in (("fixed", True), ("recrafted", False)):
        attack = phase(mode, trigger_attack="direct_gradient", trigger_settings={"group_size": 20, "iterations": 3})
        first = struck(attack, model.view())
        for i in range(5):
            model.step(easy_batch(30, seed=500 + i))
        assert torch.equal(struck(attack, model.view()).x, first.x) == same


def test_triggers_that_cannot_be_are_refused() -> None:
    with pytest.raises(AttackError, match="trigger_attack: got 'direct_gradient' with trigger_batch = 'optimized'"):
        phase("optimized", trigger_attack="direct_gradient")
    with pytest.raises(AttackError, match="with trigger_attack = 'vanilla', wanted none"):
        phase(trigger_settings={"group_size": 3})
    with pytest.raises(SettingError, match="got an unknown key"):
        phase(trigger_attack="generative", trigger_settings={"groupsize": 3})
    with pytest.raises(AttackError, match="without the learner's rate"):
        accumulative(easy_batch(2), draw_easy, torch.Generator(), trigger_attack="generative")
