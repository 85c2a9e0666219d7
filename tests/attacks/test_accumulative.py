"""The vanilla trigger and the accumulative attack against their equations, and each of their settings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.attacks.conftest import double, double_learner, feed, make_attack, trained_learner
from tests.conftest import tiny_batch
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, Phase, View
from taster.attacks import CraftingSettings, OnlineAttack, accumulative, vanilla_trigger
from taster.core.types import BatchNormMode
from taster.derivatives import Derivatives, DiffMethod, inner, normalized
from taster.derivatives.autodiff import DoubleBackward, gradient
from taster.errors import AttackError
from taster.perturbations.pgd import Norm
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


class WrittenOut:
    """Algorithm 1 in float64 by `torch.autograd` alone, with ε = 0.1 and C = 3.

    Args:
        model: θ_t, a module in the mode in which it normalizes while crafting.
        how: "cosines": each inner product is a sum of cosines, one for each parameter tensor; "lengths": the gradients
            that the poison is aligned with are normalized, its own and G_t are not; "none": nothing is normalized.
        lam: λ.
        norm: of the ball around each sample.
    """

    def __init__(self, model: nn.Module, how: str, lam: float, norm: str = "linf") -> None:
        self.model, self.how, self.lam, self.norm = model, how, lam, norm
        self.params = list(model.parameters())

    def slopes(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """∇_θ L, differentiable."""
        return list(torch.autograd.grad(cross_entropy(self.model(x), y), self.params, create_graph=True))

    def product(self, a: list[torch.Tensor], b: list[torch.Tensor], own: bool) -> torch.Tensor:
        """⟨a, b⟩; `own` where a is the poison's gradient."""
        total = torch.zeros((), dtype=torch.float64)
        for one, other in zip(a, b, strict=True):
            term = (one * other).sum()
            if self.how != "none":
                term = term / other.square().sum().sqrt()
            if self.how == "cosines" or (self.how == "lengths" and not own):
                term = term / one.square().sum().sqrt()
            total = total + term
        return total

    def opposed(self, clean: Batch, s_val: Batch) -> torch.Tensor:
        """P(S_T) by Eq. 6."""
        against = [g.detach() for g in self.slopes(s_val.x, s_val.y)]
        x = clean.x
        for _ in range(3):
            leaf = x.clone().requires_grad_()
            value = self.product(self.slopes(leaf, clean.y), against, own=True)
            x = self.moved(x, -torch.autograd.grad(value, leaf)[0], clean.x)
        return x

    def gained(self, x: torch.Tensor, clean: Batch, s_val: Batch, x_trigger: torch.Tensor, y: torch.Tensor) -> Any:
        """H_t of Eq. 9: differentiable in A_t(S_t) and P(S_T), G_t being of them the function that it is."""
        own, keep = self.slopes(x, clean.y), [g.detach() for g in self.slopes(clean.x, clean.y)]
        value = self.product(own, keep, own=True)
        if self.lam == 0:
            return value
        aligned = self.product(self.slopes(s_val.x, s_val.y), self.slopes(x_trigger, y), own=False)
        towards = list(torch.autograd.grad(aligned, self.params, create_graph=True))
        if self.how == "cosines":
            return value + self.lam * self.product(own, towards, own=True)
        return value + self.lam * sum((g * t).sum() for g, t in zip(own, towards, strict=True))

    def round(self, clean: Batch, s_val: Batch, trigger: Batch, x_trigger: torch.Tensor, optimized: bool) -> Any:
        """A_t(S_t), and P(S_T) after the round."""
        x = clean.x
        for _ in range(3):
            leaf, other = x.clone().requires_grad_(), x_trigger.clone().requires_grad_()
            value = self.gained(leaf, clean, s_val, other, trigger.y)
            along, turned = torch.autograd.grad(value, [leaf, other], allow_unused=True)
            x = self.moved(x, along, clean.x)
            if optimized and turned is not None:
                x_trigger = self.moved(x_trigger, turned, trigger.x)
        return x, x_trigger

    def moved(self, x: torch.Tensor, along: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """proj(x + α sign ∇), or along ∇ / ‖∇‖ for each sample; α = 2 ε / C."""
        if self.norm == "linf":
            x = x + 2 * 0.1 / 3 * along.sign()
            return torch.minimum(torch.maximum(x, clean - 0.1), clean + 0.1).clamp(0, 1)
        rows = []
        for row, slope, center in zip(x, along, clean, strict=True):
            change = (row + 2 * 0.1 / 3 * slope / slope.norm()).clamp(0, 1) - center
            rows.append(center + change * min(1.0, 0.1 / float(change.norm())))
        return torch.stack(rows)


FORMS: dict[str, dict[str, Any]] = {
    "cosines": {},  # the default
    "lengths": {"normalize_poisoned": False},
    "none": {"normalize": "none", "normalize_poisoned": False},
}


# Not cosines without λ: clean samples are the maximum of the cosine with themselves, where PGD follows rounding errors.
@pytest.mark.parametrize(
    ("how", "lam", "norm", "batch_norm"),
    [
        ("cosines", 0.7, "linf", "eval"),
        ("lengths", 0.7, "linf", "eval"),
        ("lengths", 0.0, "linf", "eval"),
        ("none", 0.7, "linf", "eval"),
        ("cosines", 0.7, "linf", "train"),
        ("cosines", 0.7, "l2", "eval"),
        ("lengths", 0.7, "l2", "train"),
    ],
)
@pytest.mark.parametrize("mode", ["clean", "fixed", "recrafted", "optimized"])
def test_algorithm_1_step_by_step(mode: str, how: str, lam: float, norm: Norm, batch_norm: BatchNormMode) -> None:
    """Against the algorithm written out: two rounds, the learner's step between them, and the trigger."""
    # No bias before batch norm: with the batch's statistics its gradient is rounding errors, which cosines follow.
    convolution = nn.Conv2d(1, 4, 3, bias=False)
    model = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    torch.manual_seed(0)
    for module in (model[0], model[4]):
        module.reset_parameters()
    learner = Learner(model.double(), torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    trigger, s_val = double(tiny_batch(6, seed=50)), double(tiny_batch(10, seed=60))
    attack = accumulative(
        trigger,
        lambda n: s_val,
        torch.Generator(),
        Derivatives(DiffMethod("double_backward")),
        crafting=CraftingSettings(
            epsilon=0.1, norm=norm, pgd_steps=3, validation_size=10, batch_norm=batch_norm, **FORMS[how]
        ),
        trigger_batch=mode,  # type: ignore[arg-type]
        accumulation_weight=lam,
    )

    def now() -> WrittenOut:
        return WrittenOut(copy.deepcopy(model).train(batch_norm == "train"), how, lam, norm)

    x_trigger = now().opposed(trigger, s_val) if mode in ("fixed", "recrafted") else trigger.x
    for t in range(2):
        clean = double(tiny_batch(seed=70 + t))
        if mode == "recrafted":
            x_trigger = now().opposed(trigger, s_val)
        x, x_trigger = now().round(clean, s_val, trigger, x_trigger, mode == "optimized")
        fed = attack.poison(clean, learner.view(), Phase.ACCUMULATE)
        torch.testing.assert_close(fed.x, x, rtol=0, atol=1e-10)
        learner.step(fed)
    if mode == "recrafted":
        x_trigger = now().opposed(trigger, s_val)
    struck = attack.poison(trigger, learner.view(), Phase.TRIGGER)
    torch.testing.assert_close(struck.x, x_trigger, rtol=0, atol=1e-10)
    assert torch.equal(struck.x, trigger.x) == (mode == "clean" or (mode == "optimized" and lam == 0))


@pytest.mark.parametrize("how", list(FORMS))
def test_equation_6_step_by_step(how: str) -> None:
    learner = double_learner(0.1)
    clean, s_val = double(tiny_batch(8, seed=50)), double(tiny_batch(10, seed=60))
    attack = vanilla_trigger(
        lambda n: s_val,
        torch.Generator(),
        Derivatives(DiffMethod("double_backward")),
        crafting=CraftingSettings(epsilon=0.1, pgd_steps=3, validation_size=10, **FORMS[how]),
    )
    model = copy.deepcopy(learner.model).eval()
    struck = attack.poison(clean, learner.view(), Phase.TRIGGER)
    torch.testing.assert_close(struck.x, WrittenOut(model, how, 1.0).opposed(clean, s_val), rtol=0, atol=1e-10)


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
