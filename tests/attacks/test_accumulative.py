"""The vanilla trigger and the accumulative attack against their equations, and each of their settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import feed, make_attack, trained_learner
from tests.conftest import tiny_batch

from taster import Batch, Phase, View
from taster.attacks import CraftingSettings, OnlineAttack, accumulative
from taster.derivatives import inner, normalized
from taster.derivatives.autodiff import DoubleBackward, gradient
from taster.errors import AttackError
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy

COMMON = {"pgd_steps": 3, "epsilon": 0.1, "validation_size": 10}


def loss_of(view: View):
    return lambda params, x, y: view.loss(x, y, params=params)


def alignment(view: View, batch: Batch, direction: dict[str, torch.Tensor]) -> float:
    own = gradient(loss_of(view), view.trainable, batch)
    return float(inner(own, direction))


def test_the_vanilla_trigger_lowers_equation_6() -> None:
    learner = trained_learner()
    view, clean = learner.view(), tiny_batch(8, seed=50)
    s_val = tiny_batch(10, seed=60)
    against = normalized(gradient(loss_of(view), view.trainable, s_val), "per_tensor")
    fed = make_attack("vanilla_trigger", **COMMON).poison(clean, learner.view(), Phase.TRIGGER)
    noise = make_attack("random_noise", epsilon=0.1).poison(clean, learner.view(), Phase.TRIGGER)
    assert alignment(view, fed, against) < min(alignment(view, clean, against), alignment(view, noise, against))


@pytest.mark.parametrize("weight", [0.0, 1.0, 100.0])
def test_the_accumulative_phase_raises_equation_9(weight: float) -> None:
    learner = trained_learner()
    view, clean = learner.view(), tiny_batch(seed=70)
    s_val, s_trigger = tiny_batch(10, seed=60), tiny_batch(8, seed=50)
    keep = gradient(loss_of(view), view.trainable, clean)
    towards = DoubleBackward().accumulation_direction(loss_of(view), view.trainable, s_val, s_trigger)
    target = {k: keep[k] + weight * towards[k] for k in keep}
    campaign = accumulative(
        s_trigger,
        lambda n: s_val,
        torch.Generator(),
        crafting=CraftingSettings(epsilon=0.1, pgd_steps=5, normalize="none"),
        trigger_batch="clean",
        accumulation_weight=weight,
    )
    fed = campaign.poison(clean, learner.view(), Phase.ACCUMULATE)
    assert alignment(view, fed, target) > alignment(view, clean, target)


def test_the_trigger_is_fixed_recrafted_or_optimized() -> None:
    learner = trained_learner()
    clean = tiny_batch(8, seed=50)

    def triggers(mode: str) -> list[torch.Tensor]:
        campaign = make_attack("accumulative", **COMMON, trigger_batch=mode)
        found = []
        for i in range(2):
            campaign.poison(tiny_batch(seed=70 + i), learner.view(), Phase.ACCUMULATE)
            found.append(campaign.poison(clean, learner.view(), Phase.TRIGGER).x)
            for j in range(5):
                learner.step(tiny_batch(seed=80 + 5 * i + j))
        return found

    fixed = triggers("fixed")
    assert torch.equal(fixed[0], fixed[1])
    for mode in ("recrafted", "optimized"):
        first, second = triggers(mode)
        assert not torch.equal(first, second)


def test_resampling_redraws_s_val_each_round() -> None:
    draws: list[int] = []

    def validation(n: int) -> Batch:
        draws.append(n)
        return tiny_batch(n, seed=len(draws))

    def rounds(**settings: Any) -> int:
        draws.clear()
        campaign = accumulative(
            tiny_batch(8),
            validation,
            torch.Generator(),
            trigger_batch="clean",
            crafting=CraftingSettings(pgd_steps=1),
            **settings,
        )
        for i in range(3):
            campaign.poison(tiny_batch(seed=i), trained_learner().view(), Phase.ACCUMULATE)
        return len(draws)

    assert rounds(resample_validation=False) == 1
    assert rounds(resample_validation=True) == 3


def test_without_a_weight_the_optimised_trigger_stays_where_it_started() -> None:
    learner, clean = trained_learner(), tiny_batch(8, seed=50)

    def trigger(weight: float) -> torch.Tensor:
        campaign = accumulative(
            clean,
            lambda n: tiny_batch(n, seed=60),
            torch.Generator(),
            trigger_batch="optimized",
            crafting=CraftingSettings(pgd_steps=2),
            accumulation_weight=weight,
        )
        campaign.poison(tiny_batch(seed=70), learner.view(), Phase.ACCUMULATE)
        return campaign.poison(clean, learner.view(), Phase.TRIGGER).x

    assert torch.equal(trigger(0.0), clean.x)
    assert not torch.equal(trigger(1.0), clean.x)


def test_evading_keeps_the_discrepancy_low() -> None:
    learner, score = trained_learner(), MemorizationDiscrepancy("early")
    plain, evading = (
        feed(make_attack("accumulative", **COMMON, **settings), learner)[0]
        for settings in ({}, {"evade_reference": "early", "evade_weight": 10.0})
    )
    view = learner.view()
    assert float(score(evading, view).mean()) < float(score(plain, view).mean())


def test_a_surrogate_is_crafted_on_in_place_of_the_learner() -> None:
    learner = trained_learner()

    def crafted(**settings: Any) -> list[Batch]:
        return feed(make_attack("accumulative", **COMMON, **settings), learner)

    surrogate = {"surrogate": "early", "trigger_batch": "recrafted"}
    on_the_past = crafted(**surrogate)
    for _ in range(3):  # the learner moves on, the surrogate does not
        learner.step(tiny_batch(seed=90))
    assert all(torch.equal(a.x, b.x) for a, b in zip(on_the_past, crafted(**surrogate), strict=True))
    assert not torch.equal(on_the_past[0].x, crafted()[0].x)


def test_objectives_and_starts_that_cannot_work_are_refused() -> None:
    def build(**settings: Any) -> OnlineAttack:
        return make_attack("accumulative", **settings)

    with pytest.raises(AttackError, match="random_start = true"):
        build(objective="kl")
    with pytest.raises(AttackError, match="pgd_momentum"):
        build(trigger_batch="optimized", pgd_momentum=1.0)
