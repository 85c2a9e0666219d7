"""Adversarial poison: the steps are those of a plain PGD, and it does what it is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import double, double_learner, easy_batch, easy_learner, make_attack, trained_learner
from tests.conftest import tiny_batch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, Phase
from taster.attacks.online_attack import poison_mask
from taster.errors import AttackError, SettingError


def attack(seed: int = 0, **settings: Any) -> Any:
    return make_attack("adversarial_poison", seed=seed, **{"pgd_steps": 10, "epsilon": 0.1, **settings})


def by_hand(
    model: torch.nn.Module, clean: Batch, aim: Tensor, sign: float, norm: str, steps: int, alpha: float = 0.03
) -> Tensor:
    """PGD from the clean samples, one sample after the other."""
    epsilon = 0.1
    model.eval()
    found = []
    for x0, label in zip(clean.x, aim, strict=True):
        x = x0.clone()
        for _ in range(steps):
            leaf = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(cross_entropy(model(leaf[None]), label[None]), leaf)
            change = x + sign * alpha * (slope.sign() if norm == "linf" else slope / slope.norm()) - x0
            if norm == "linf":
                change = change.clamp(-epsilon, epsilon)
            elif change.norm() > epsilon:
                change = change * epsilon / change.norm()
            x = (x0 + change).clamp(0, 1)
        found.append(x)
    return torch.stack(found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("targeted", "shift"), [(False, 1), (True, 1), (True, 2)])
def test_the_samples_are_those_of_a_plain_pgd_in_float64(norm: str, targeted: bool, shift: int) -> None:
    learner = double_learner(0.1)
    # Away from the range's ends: in the l2 ball the order of clamping and scaling would matter there.
    batch = double(tiny_batch(3, seed=3))
    clean = Batch(0.2 + 0.6 * batch.x, batch.y)
    settings = {"norm": norm, "targeted": targeted, "label_shift": shift, "random_start": False}
    fed = attack(**settings, pgd_steps=6, step_size=0.03).poison(clean, learner.view(), Phase.ACCUMULATE)
    aim = (clean.y + shift) % 3 if targeted else clean.y
    expected = by_hand(learner.model, clean, aim, -1.0 if targeted else 1.0, norm, 6)
    assert torch.allclose(fed.x, expected, rtol=0, atol=1e-10)
    assert torch.equal(fed.y, clean.y)
    assert float((fed.x - clean.x).abs().max()) > 0.01
    default = attack(**settings, pgd_steps=1).poison(clean, learner.view(), Phase.ACCUMULATE)
    assert torch.allclose(
        default.x, by_hand(learner.model, clean, aim, -1.0 if targeted else 1.0, norm, 1, 0.1 / 20), rtol=0, atol=1e-10
    )


def test_the_error_is_maximized_or_the_next_class_sought() -> None:
    learner, clean = easy_learner(), easy_batch(60, seed=7)
    view = learner.view()
    assert view.accuracy(clean.x, clean.y) == 100
    free = attack(epsilon=0.5, pgd_steps=20, step_size=0.05).poison(clean, view, Phase.ACCUMULATE)
    aimed = attack(epsilon=0.5, pgd_steps=20, step_size=0.05, targeted=True).poison(clean, view, Phase.ACCUMULATE)
    goal = (clean.y + 1) % 3
    assert view.accuracy(free.x, clean.y) < 5
    assert view.accuracy(aimed.x, goal) > 95

    def loss(x: Tensor, y: Tensor) -> float:
        return float(view.loss(x, y))

    assert loss(free.x, clean.y) > loss(aimed.x, clean.y) > loss(clean.x, clean.y)
    assert loss(aimed.x, goal) < loss(free.x, goal)


def test_it_starts_at_a_random_point_and_poisons_the_fraction() -> None:
    learner, clean = trained_learner(), tiny_batch(8, seed=70)
    feeds = [attack(seed, pgd_steps=1).poison(clean, learner.view(), Phase.ACCUMULATE).x for seed in (0, 0, 1)]
    assert torch.equal(feeds[0], feeds[1])
    assert not torch.equal(feeds[0], feeds[2])
    for fraction, count in ((0.5, 4), (0.1, 0)):
        part = attack(poison_fraction=fraction).poison(clean, learner.view(), Phase.ACCUMULATE)
        assert int(poison_mask(part, clean).sum()) == count


def test_it_is_crafted_by_the_present_model_or_by_the_one_that_is_named() -> None:
    learner, clean = trained_learner(), tiny_batch(8, seed=70)

    def fed(**settings: Any) -> Tensor:
        x: Tensor = attack(random_start=False, **settings).poison(clean, learner.view(), Phase.ACCUMULATE).x
        return x

    early, present = fed(surrogate="early"), fed()
    assert not torch.equal(early, present)
    own = learner.view().at("early")
    made = make_attack(
        "adversarial_poison", given={"surrogates": {"own": own}}, surrogate="own", pgd_steps=10, epsilon=0.1,
        random_start=False,
    )  # fmt: skip
    assert torch.equal(made.poison(clean, learner.view(), Phase.ACCUMULATE).x, early)
    learner.step(tiny_batch(seed=90))
    assert torch.equal(fed(surrogate="early"), early)
    assert not torch.equal(fed(), present)


def test_a_shift_that_moves_no_class_is_an_error() -> None:
    learner: Learner = trained_learner()
    with pytest.raises(AttackError, match="label_shift: got 3 with a model of 3 classes, wanted no multiple"):
        attack(targeted=True, label_shift=3).poison(tiny_batch(), learner.view(), Phase.ACCUMULATE)
    with pytest.raises(SettingError, match="label_shift"):
        attack(label_shift=0)


def accuracy_after(name: str, seed: int, **settings: Any) -> float:
    """Of a model that has learned a stream poisoned so, on clean samples."""
    poisoning = make_attack(name, seed=seed, epsilon=0.4, **settings)
    learner = easy_learner()
    for i in range(10):
        clean = easy_batch(30, seed=1000 * seed + 500 + i)
        learner.step(poisoning.poison(clean, learner.view(), Phase.ACCUMULATE))
    test = easy_batch(300, seed=99_000)
    return learner.view().accuracy(test.x, test.y)


@pytest.mark.parametrize("seed", range(3))
def test_an_untargeted_stream_harms_more_than_noise_of_the_same_size(seed: int) -> None:
    poisoned = accuracy_after("adversarial_poison", seed, pgd_steps=10, step_size=0.08)
    assert poisoned < accuracy_after("random_noise", seed) - 10
