"""Direct and generative poisoning: how the poison starts, moves and stops, and the harm that it does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.attacks.conftest import RATE, draw_easy, easy_batch, easy_learner, injection_attack, make_attack
from tests.conftest import TinyNet, tiny_batch
from torch.nn.functional import cross_entropy

from taster import Learner, Phase
from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.online_attack import poison_mask
from taster.attacks.unrolled_update import (
    OneStepUpdate,
)
from taster.derivatives import sign_agreement
from taster.errors import AttackError


@pytest.mark.parametrize("gradient", ["finite_differences", "unrolled", "first_order"])
def test_each_gradient_raises_the_loss_of_normal_samples(gradient: str) -> None:
    rate = 0.1 if gradient == "first_order" else RATE  # it is one of short updates
    model, clean = easy_learner(rate=rate), easy_batch(1, seed=7)
    attack = injection_attack(gradient=gradient, iterations=12, tol=1e-4, rate=rate)
    fed = attack.poison(clean, model.view(), Phase.TRIGGER)
    assert attack.trace is not None
    losses = attack.trace.losses
    assert int(fed.y) != int(clean.y)
    assert max(losses) > 1.1 * losses[0]
    injection = OneStepUpdate(model.view(), draw_easy(50), rate)
    assert injection.loss_after(fed) == pytest.approx(max(losses), rel=1e-4)
    # And the real learner does what was foreseen.
    held_out, before = easy_batch(200, seed=99), model.view()
    own = float(before.loss(held_out.x, held_out.y))
    harmed = copy.deepcopy(model.model)
    model.step(fed)
    after = float(model.view().loss(held_out.x, held_out.y))
    start = attack.trace.batches[0]
    twin = Learner(harmed, torch.optim.SGD(harmed.parameters(), lr=rate), cross_entropy)
    twin.step(start)
    assert after > float(twin.view().loss(held_out.x, held_out.y)) > own


def test_the_gradients_take_the_same_first_step() -> None:
    view, clean = easy_learner(smooth=True).view(), easy_batch(1, seed=7)

    def step(gradient: str) -> torch.Tensor:
        attack = injection_attack(gradient=gradient, iterations=1, fd_step=1e-2)
        attack.poison(clean, view, Phase.TRIGGER)
        assert attack.trace is not None
        first, second = (batch.x for batch in attack.trace.batches)
        return second - first

    assert sign_agreement(step("finite_differences"), step("unrolled")) > 0.9


@pytest.mark.parametrize("kind", ["direct", "generative"])
def test_it_stops_at_the_loss_threshold(kind: str) -> None:
    view, clean = easy_learner().view(), easy_batch(1, seed=7)

    def iterations(**settings: Any) -> int:
        attack = injection_attack(kind, iterations=15, **settings)
        attack.poison(clean, view, Phase.TRIGGER)
        assert attack.trace is not None
        return len(attack.trace.losses) - 1

    if kind == "direct":
        assert iterations(tol=0.0) == 15
        assert iterations(tol=1e9) == 1
    else:
        assert iterations(tol=1e9, patience=4) == 4
        assert iterations(tol=1e9, patience=99) == 15


@pytest.mark.parametrize("kind", ["direct", "generative"])
def test_without_iterations_the_start_is_fed(kind: str) -> None:
    view, clean = easy_learner().view(), easy_batch(4, seed=7)
    fed = injection_attack(kind, iterations=0).poison(clean, view, Phase.TRIGGER)
    assert torch.equal(fed.x, clean.x)
    assert bool((fed.y != clean.y).all())
    noise = injection_attack(kind, iterations=0, init="uniform").poison(clean, view, Phase.TRIGGER)
    assert float((noise.x - clean.x).abs().mean()) > 0.2
    assert bool(((noise.x >= 0) & (noise.x <= 1)).all())


def test_poison_begins_at_the_class_and_under_the_label_asked_for() -> None:
    view, clean = easy_learner().view(), easy_batch(6, seed=7)
    attack = injection_attack(iterations=0, source_class=2, target_class=1)
    fed = attack.poison(clean, view, Phase.TRIGGER)
    own = draw_easy(50)
    assert fed.y.tolist() == [1] * 6
    assert torch.equal(fed.x[0], own.x[own.y == 2][0])
    # One that is of the attacking class already gets another label.
    labels = injection_attack(iterations=0, target_class=int(clean.y[0])).poison(clean, view, Phase.TRIGGER).y
    assert int(labels[0]) != int(clean.y[0])
    others = clean.y != clean.y[0]
    assert bool((labels[others] == clean.y[0]).all())
    with pytest.raises(AttackError, match="target_class: got 3, wanted 0 to 2"):
        injection_attack(target_class=3).poison(clean, view, Phase.TRIGGER)
    with pytest.raises(AttackError, match="victim_class: got 7"):
        injection_attack(source_class=7).poison(clean, view, Phase.TRIGGER)


def test_a_batch_is_poisoned_as_one_and_only_in_part_where_asked() -> None:
    model, clean = easy_learner(), easy_batch(8, seed=7)
    attack = injection_attack(poison_fraction=0.5, iterations=5, greedy=True)
    fed = attack.poison(clean, model.view(), Phase.ACCUMULATE)
    assert int(poison_mask(fed, clean).sum()) == 4
    assert attack.trace is not None
    assert attack.trace.losses[-1] > attack.trace.losses[0]
    assert injection_attack(iterations=1).accumulate is None


def test_what_is_kept_is_the_most_harmful_or_the_last() -> None:
    view, clean = easy_learner().view(), easy_batch(1, seed=7)
    for kind in ("direct", "generative"):
        for keep in ("most_harmful", "last"):
            attack = (
                injection_attack(kind, iterations=6, keep=keep, step_size=0.5)
                if kind == "direct"
                else injection_attack(kind, iterations=6, keep=keep)
            )
            fed = attack.poison(clean, view, Phase.TRIGGER)
            forming = attack.trace
            assert forming is not None
            index = forming.losses.index(max(forming.losses)) if keep == "most_harmful" else len(forming.losses) - 1
            assert torch.equal(fed.x, forming.batches[index].x)


def test_a_loss_that_is_no_number_is_never_the_most_harmful() -> None:
    forming = CraftingTrace()
    forming.start()
    for i, loss in enumerate([1.0, float("nan"), 3.0, float("nan")]):
        forming.append(tiny_batch(seed=i), loss)
    assert torch.equal(forming.most_harmful.x, tiny_batch(seed=2).x)
    forming.start()
    assert forming.batches == []


def test_batch_norm_and_convolutions_are_no_obstacle() -> None:
    torch.manual_seed(0)
    model = TinyNet()
    found = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    for i in range(5):
        found.step(tiny_batch(seed=i))
    attack = make_attack("direct_gradient", iterations=3)
    fed = attack.poison(tiny_batch(4, seed=50), found.view(), Phase.TRIGGER)
    assert bool(poison_mask(fed, tiny_batch(4, seed=50)).all())


@pytest.mark.parametrize("policy", ["normal_data", "unrolled"])
def test_generated_poison_harms_more_than_what_it_began_with(policy: str) -> None:
    model = easy_learner()
    gains = []
    for seed in range(3):
        attack = injection_attack("generative", seed, policy=policy, iterations=40, generator_learning_rate=3e-3)
        attack.poison(easy_batch(1, seed=70 + seed), model.view(), Phase.TRIGGER)
        assert attack.trace is not None
        assert attack.trace.setup_seconds > 0
        gains.append(max(attack.trace.losses) / attack.trace.losses[0])
    assert sum(gains) / 3 > 1.2
