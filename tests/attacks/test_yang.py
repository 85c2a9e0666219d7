"""Direct and generative poisoning: the gradients agree, poison begins, moves and stops as it should, and harms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, Phase, View
from taster.attacks import OnlineAttack, accumulative, direct_gradient, generative
from taster.attacks.autoencoder import GeneratorTrainer, pretrain_autoencoder
from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.online.generative import normal_data_gradient
from taster.attacks.online_attack import poison_mask
from taster.attacks.unrolled_update import (
    UNROLLED_METHOD,
    OneStepUpdate,
    finite_difference_gradient,
    first_order_gradient,
    unrolled_gradient,
)
from taster.derivatives import Derivatives, sign_agreement
from taster.errors import AttackError, SettingError

RATE = 0.5


def easy(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Samples whose class is where the bright rows are."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = 0.3 * torch.rand(n, 1, 6, 6, generator=g, dtype=dtype)
    for i, label in enumerate(y.tolist()):
        x[i, :, 2 * label : 2 * label + 2] += 0.6
    return Batch(x, y)


def learner(dtype: torch.dtype = torch.float32, smooth: bool = False, rate: float = RATE) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh() if smooth else nn.ReLU(), nn.Linear(12, 3))
    model.to(dtype)
    found = Learner(model, torch.optim.SGD(model.parameters(), lr=RATE), cross_entropy)
    for i in range(60):
        found.step(easy(30, seed=i, dtype=dtype))
    found.optimizer.param_groups[0]["lr"] = rate
    return found


def draw(n: int) -> Batch:
    return easy(n, seed=1000)


def campaign(kind: str = "direct", seed: int = 0, rate: float = RATE, **settings: Any) -> OnlineAttack:
    g = torch.Generator().manual_seed(seed)
    if kind == "direct":
        return direct_gradient(draw, g, rate, **{"group_size": 50, **settings})
    small = {"group_size": 50, "pretraining_size": 60, "hidden": [12, 12], **settings}
    return generative(draw, g, rate, **small)


def test_the_exact_gradient_is_autograd_through_the_update_and_differences_come_near() -> None:
    view = learner(torch.float64, smooth=True).view()
    normal, poison = easy(40, seed=5, dtype=torch.float64), easy(3, seed=6, dtype=torch.float64)
    poison = Batch(poison.x, (poison.y + 1) % 3)
    injection = OneStepUpdate(view, normal, RATE)
    everyone = torch.ones(3, dtype=torch.bool)

    x = poison.x.clone().requires_grad_(True)
    leaves = {name: value.clone().requires_grad_(True) for name, value in view.trainable.items()}
    slopes = torch.autograd.grad(view.loss(x, poison.y, params=leaves), list(leaves.values()), create_graph=True)
    after = {name: leaves[name] - RATE * slope for name, slope in zip(leaves, slopes, strict=True)}
    harm = view.loss(normal.x, normal.y, params=after)
    (unrolled,) = torch.autograd.grad(harm, x)
    truth = pytest.approx(float(harm.detach()), rel=1e-12)

    value, slope = unrolled_gradient(injection, Derivatives(UNROLLED_METHOD))(poison)
    assert value == truth
    assert injection.loss_after(poison) == truth
    assert torch.allclose(slope(), unrolled, rtol=1e-9, atol=1e-14)
    value, slope = finite_difference_gradient(injection, everyone, 1e-6)(poison)
    assert value == truth
    assert torch.allclose(slope(), unrolled, rtol=1e-3, atol=1e-8)


def test_differences_leave_out_what_may_not_move() -> None:
    injection = OneStepUpdate(learner().view(), easy(20, seed=5), RATE)
    poison, chosen = easy(3, seed=6), torch.tensor([False, True, False])
    slopes = finite_difference_gradient(injection, chosen, 0.01)(poison)[1]()
    assert not bool(slopes[0].any())
    assert bool(slopes[1].any())
    assert not bool(slopes[2].any())


def test_the_first_order_gradient_is_the_exact_one_of_a_short_update() -> None:
    view, poison = learner(torch.float64, smooth=True).view(), easy(2, seed=6, dtype=torch.float64)
    normal = easy(40, seed=5, dtype=torch.float64)
    poison = Batch(poison.x, (poison.y + 1) % 3)

    def share(rate: float) -> float:
        injection = OneStepUpdate(view, normal, rate)
        found = first_order_gradient(injection, Derivatives(UNROLLED_METHOD))(poison)[1]()
        truth = unrolled_gradient(injection, Derivatives(UNROLLED_METHOD))(poison)[1]()
        return float((found - truth).norm() / truth.norm())

    assert share(1e-6) < 1e-4
    assert share(RATE) > 10 * share(1e-3)


@pytest.mark.parametrize("gradient", ["finite_differences", "unrolled", "first_order"])
def test_each_way_raises_the_loss_of_normal_samples_above_the_start(gradient: str) -> None:
    rate = 0.1 if gradient == "first_order" else RATE  # it is one of short updates
    model, clean = learner(rate=rate), easy(1, seed=7)
    attack = campaign(gradient=gradient, iterations=12, tol=1e-4, rate=rate)
    fed = attack.poison(clean, model.view(), Phase.TRIGGER)
    assert attack.trace is not None
    losses = attack.trace.losses
    assert int(fed.y) != int(clean.y)
    assert max(losses) > 1.1 * losses[0]
    injection = OneStepUpdate(model.view(), draw(50), rate)
    assert injection.loss_after(fed) == pytest.approx(max(losses), rel=1e-4)
    # And the real learner does what was foreseen.
    held_out, before = easy(200, seed=99), model.view()
    own = float(before.loss(held_out.x, held_out.y))
    harmed = copy.deepcopy(model.model)
    model.step(fed)
    after = float(model.view().loss(held_out.x, held_out.y))
    start = attack.trace.batches[0]
    twin = Learner(harmed, torch.optim.SGD(harmed.parameters(), lr=rate), cross_entropy)
    twin.step(start)
    assert after > float(twin.view().loss(held_out.x, held_out.y)) > own


def test_the_ways_take_the_same_first_step() -> None:
    view, clean = learner(smooth=True).view(), easy(1, seed=7)

    def step(gradient: str) -> torch.Tensor:
        attack = campaign(gradient=gradient, iterations=1, fd_step=1e-2)
        attack.poison(clean, view, Phase.TRIGGER)
        assert attack.trace is not None
        first, second = (batch.x for batch in attack.trace.batches)
        return second - first

    assert sign_agreement(step("finite_differences"), step("unrolled")) > 0.9


@pytest.mark.parametrize("kind", ["direct", "generative"])
def test_it_stops_at_the_loss_threshold(kind: str) -> None:
    view, clean = learner().view(), easy(1, seed=7)

    def iterations(**settings: Any) -> int:
        attack = campaign(kind, iterations=15, **settings)
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
    view, clean = learner().view(), easy(4, seed=7)
    fed = campaign(kind, iterations=0).poison(clean, view, Phase.TRIGGER)
    assert torch.equal(fed.x, clean.x)
    assert bool((fed.y != clean.y).all())
    noise = campaign(kind, iterations=0, init="uniform").poison(clean, view, Phase.TRIGGER)
    assert float((noise.x - clean.x).abs().mean()) > 0.2
    assert bool(((noise.x >= 0) & (noise.x <= 1)).all())


def test_poison_begins_at_the_class_and_under_the_label_asked_for() -> None:
    view, clean = learner().view(), easy(6, seed=7)
    attack = campaign(iterations=0, source_class=2, target_class=1)
    fed = attack.poison(clean, view, Phase.TRIGGER)
    own = draw(50)
    assert fed.y.tolist() == [1] * 6
    assert torch.equal(fed.x[0], own.x[own.y == 2][0])
    # One that is of the attacking class already gets another label.
    labels = campaign(iterations=0, target_class=int(clean.y[0])).poison(clean, view, Phase.TRIGGER).y
    assert int(labels[0]) != int(clean.y[0])
    others = clean.y != clean.y[0]
    assert bool((labels[others] == clean.y[0]).all())
    with pytest.raises(AttackError, match="target_class: got 3, wanted 0 to 2"):
        campaign(target_class=3).poison(clean, view, Phase.TRIGGER)
    with pytest.raises(AttackError, match="victim_class: got 7"):
        campaign(source_class=7).poison(clean, view, Phase.TRIGGER)


def test_a_batch_is_poisoned_as_one_and_only_in_part_where_asked() -> None:
    model, clean = learner(), easy(8, seed=7)
    attack = campaign(poison_fraction=0.5, iterations=5, greedy=True)
    fed = attack.poison(clean, model.view(), Phase.ACCUMULATE)
    assert int(poison_mask(fed, clean).sum()) == 4
    assert attack.trace is not None
    assert attack.trace.losses[-1] > attack.trace.losses[0]
    assert campaign(iterations=1).accumulate is None


def test_what_is_kept_is_the_most_harmful_or_the_last() -> None:
    view, clean = learner().view(), easy(1, seed=7)
    for kind in ("direct", "generative"):
        for keep in ("most_harmful", "last"):
            attack = (
                campaign(kind, iterations=6, keep=keep, step_size=0.5)
                if kind == "direct"
                else campaign(kind, iterations=6, keep=keep)
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


def test_the_autoencoder_learns_to_give_samples_back_and_leaves_the_global_generator_alone() -> None:
    x, state = easy(100, seed=3).x, torch.get_rng_state()

    def made(epochs: int, seed: int = 0) -> torch.Tensor:
        model = pretrain_autoencoder(x, [24, 24], epochs, torch.Generator().manual_seed(seed), 0.0, 1.0)
        assert len([layer for layer in model.layers if isinstance(layer, nn.Linear)]) == 3
        with torch.no_grad():
            return model(x)

    untrained, trained = made(0), made(60)
    assert trained.shape == x.shape
    assert float((trained - x).square().mean()) < 0.3 * float((untrained - x).square().mean())
    assert torch.equal(made(2), made(2))
    assert not torch.equal(made(2), made(2, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generator_follows_what_is_sent_back_to_it_and_the_pretrained_one_stays() -> None:
    x = easy(2, seed=3).x
    model = pretrain_autoencoder(x, [12], 1, torch.Generator().manual_seed(0), 0.0, 1.0)
    before = copy.deepcopy(model.state_dict())
    upstream = torch.zeros_like(x)
    upstream[:, :, 0] = 1.0
    maker = GeneratorTrainer(model, 1e-2)
    made = [maker.step(x, upstream) for _ in range(5)]
    assert float(made[-1][:, :, 0].mean()) > float(made[0][:, :, 0].mean())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_normal_datas_gradient_is_summed_over_the_group_after_the_update() -> None:
    model = learner(torch.float64)
    normal, poison = easy(15, seed=5, dtype=torch.float64), easy(2, seed=6, dtype=torch.float64)
    loss, direction = normal_data_gradient(OneStepUpdate(model.view(), normal, RATE))(poison)
    twin = copy.deepcopy(model.model)
    Learner(twin, torch.optim.SGD(twin.parameters(), lr=RATE), cross_entropy).step(poison)
    x = normal.x.clone().requires_grad_(True)
    value = cross_entropy(twin(x), normal.y)
    (slopes,) = torch.autograd.grad(value, x)
    assert loss == pytest.approx(float(value.detach()), rel=1e-9)
    assert torch.allclose(direction(), slopes.sum(0, keepdim=True), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("policy", ["normal_data", "unrolled"])
def test_generated_poison_harms_more_than_what_it_began_with(policy: str) -> None:
    model = learner()
    gains = []
    for seed in range(3):
        attack = campaign("generative", seed, policy=policy, iterations=40, generator_learning_rate=3e-3)
        attack.poison(easy(1, seed=70 + seed), model.view(), Phase.TRIGGER)
        assert attack.trace is not None
        assert attack.trace.setup_seconds > 0
        gains.append(max(attack.trace.losses) / attack.trace.losses[0])
    assert sum(gains) / 3 > 1.2


def phase(trigger_batch: str = "fixed", **settings: Any) -> OnlineAttack:
    return accumulative(
        easy(2, seed=50),
        draw,
        torch.Generator().manual_seed(0),
        learning_rate=RATE,
        trigger_batch=trigger_batch,
        validation_size=20,
        pgd_steps=2,
        epsilon=0.05,
        **settings,
    )


def struck(attack: OnlineAttack, view: View) -> Batch:
    attack.poison(easy(8, seed=60), view, Phase.ACCUMULATE)
    return attack.poison(easy(2, seed=50), view, Phase.TRIGGER)


@pytest.mark.parametrize("by", ["direct_gradient", "generative"])
def test_both_can_be_the_trigger_of_the_accumulative_phase(by: str) -> None:
    view = learner().view()
    settings = {
        "group_size": 20,
        "iterations": 3,
        "keep": "last",
        **({} if by == "direct_gradient" else {"pretraining_size": 20}),
    }
    attack = phase(trigger_attack=by, trigger_settings=settings)
    stream = attack.poison(easy(8, seed=60), view, Phase.ACCUMULATE)
    assert torch.equal(stream.y, easy(8, seed=60).y)
    assert 0 < float((stream.x - easy(8, seed=60).x).abs().max()) <= 0.05 + 1e-6
    fed = attack.poison(easy(2, seed=50), view, Phase.TRIGGER)
    assert bool((fed.y != easy(2, seed=50).y).all())
    assert float((fed.x - easy(2, seed=50).x).abs().max()) > 0.05
    assert attack.trace is not None
    assert len(attack.trace.losses) > 1
    # The phase looks towards this trigger: another one leads elsewhere.
    plain = phase().poison(easy(8, seed=60), view, Phase.ACCUMULATE)
    assert not torch.equal(plain.x, stream.x)


def test_such_a_trigger_is_kept_or_crafted_anew_as_asked() -> None:
    model = learner()
    for mode, same in (("fixed", True), ("recrafted", False)):
        attack = phase(mode, trigger_attack="direct_gradient", trigger_settings={"group_size": 20, "iterations": 3})
        first = struck(attack, model.view())
        for i in range(5):
            model.step(easy(30, seed=500 + i))
        assert torch.equal(struck(attack, model.view()).x, first.x) == same


def test_triggers_that_cannot_be_are_refused() -> None:
    with pytest.raises(AttackError, match="trigger_attack: got 'direct_gradient' with trigger_batch = 'optimized'"):
        phase("optimized", trigger_attack="direct_gradient")
    with pytest.raises(AttackError, match="with trigger_attack = 'vanilla', wanted none"):
        phase(trigger_settings={"group_size": 3})
    with pytest.raises(SettingError, match="got an unknown key"):
        phase(trigger_attack="generative", trigger_settings={"groupsize": 3})
    with pytest.raises(AttackError, match="without the learner's rate"):
        accumulative(easy(2), draw, torch.Generator(), trigger_attack="generative")


def test_batch_norm_and_convolutions_are_no_obstacle() -> None:
    torch.manual_seed(0)
    model = TinyNet()
    found = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    for i in range(5):
        found.step(tiny_batch(seed=i))
    attack = direct_gradient(lambda n: tiny_batch(n, seed=9), torch.Generator().manual_seed(0), 0.1, iterations=3)
    fed = attack.poison(tiny_batch(4, seed=50), found.view(), Phase.TRIGGER)
    assert bool(poison_mask(fed, tiny_batch(4, seed=50)).all())
