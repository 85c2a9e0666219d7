"""Noise by gradients in the parameters, and noise that withstands adversarial training."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.unlearnable.noise_problems import images, knowledge, training
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.attacks import (
    PerturbationSettings,
    error_minimising_noise,
    gradient_alignment,
    robust_minimising_noise,
    tensor_clog,
)
from taster.attacks.surrogate import loss_of, trained
from taster.attacks.unlearnable.alternating import AlternatingSettings
from taster.attacks.unlearnable.gradient_alignment import mean_gradient, reversed_cross_entropy
from taster.attacks.unlearnable.tensor_clog import shrinking_slope
from taster.core.learner import Learner
from taster.core.types import Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, DiffMethod
from taster.perturbations.pgd import LpBall, pgd
from taster.perturbations.sample_gradient import cross_entropy_gradient

CLEAN = images(30)
WIDE = PerturbationSettings(epsilon=0.2)
EXACT = Derivatives(DiffMethod("double_backward"))


def double_view() -> View:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), cross_entropy).view()


def flat(gradient: Tensors) -> Tensor:
    return torch.cat([value.flatten() for value in gradient.values()])


def test_reversed_cross_entropy_is_minus_log_of_what_the_others_have() -> None:
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(7) % 4
    own = logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(reversed_cross_entropy(logits, y), -(1 - own).log())


def test_reversed_cross_entropy_of_a_sure_net_is_finite() -> None:
    found = reversed_cross_entropy(torch.tensor([[80.0, 0.0, 0.0]]), torch.tensor([0]))
    assert float(found) == pytest.approx(80 - torch.log(torch.tensor(2.0)).item())


def test_a_gradient_in_chunks_is_the_gradient() -> None:
    view, samples = double_view(), images(10)
    x = samples.x.double()
    whole = EXACT.gradient(loss_of(view), view.trainable, type(samples)(x, samples.y))
    parts = mean_gradient(EXACT, loss_of(view), view.trainable, type(samples)(x, samples.y), chunk=4)
    torch.testing.assert_close(flat(parts), flat(whole))


def test_the_slope_of_a_gradients_length_against_differences() -> None:
    view, samples = double_view(), images(4)
    x = samples.x.double()

    def half_square(at: Tensor) -> float:
        gradient = EXACT.gradient(loss_of(view), view.trainable, type(samples)(at, samples.y))
        return 0.5 * float(flat(gradient).square().sum())

    slope = shrinking_slope(view, EXACT)(x, samples.y)
    for place in [(0, 0, 1, 2), (3, 0, 5, 0), (2, 0, 0, 4)]:
        nudge = torch.zeros_like(x)
        nudge[place] = 1e-5
        wanted = -(half_square(x + nudge) - half_square(x - nudge)) / 2e-5
        assert float(slope[place]) == pytest.approx(wanted, rel=1e-5)


def test_clogged_samples_have_a_shorter_gradient() -> None:
    known = knowledge(training(batch_size=30))
    found = tensor_clog(EXACT, perturbation=WIDE)(CLEAN, known).samples
    view = trained(known.fits[0], CLEAN, torch.Generator().manual_seed(0), 1)  # type: ignore[arg-type]
    before, after = (EXACT.gradient(loss_of(view), view.trainable, part) for part in (CLEAN, found))
    assert float(flat(after).norm()) < 0.6 * float(flat(before).norm())


def test_aligned_samples_have_the_gradient_that_raises_the_error() -> None:
    known = knowledge(training(batch_size=30))
    found = gradient_alignment(EXACT, perturbation=WIDE)(CLEAN, known).samples
    view = known.fit(CLEAN)
    assert isinstance(view, View)

    def towards_errors(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return reversed_cross_entropy(view.forward(x, params=params), y).mean()

    wanted = flat(EXACT.gradient(towards_errors, view.trainable, CLEAN))
    before, after = (
        torch.cosine_similarity(flat(EXACT.gradient(loss_of(view), view.trainable, part)), wanted, 0)
        for part in (CLEAN, found)
    )
    assert float(before) < 0
    assert float(after) > 0.5


def test_without_an_adversary_robust_noise_is_error_minimising_noise() -> None:
    settings = AlternatingSettings(train_steps=3, pgd_steps=3, max_rounds=4, stop_error=0.0)
    robust = robust_minimising_noise(perturbation=WIDE, alternating=settings, adversary=0.0)
    plain = error_minimising_noise(perturbation=WIDE, alternating=settings)
    assert torch.equal(robust(CLEAN, knowledge()).samples.x, plain(CLEAN, knowledge()).samples.x)


def test_robust_noise_is_learned_under_an_adversary_that_plain_noise_does_not_withstand() -> None:
    """Of a net that learns adversarially, the adversarial loss is lower on robust than on plain noise."""
    settings = AlternatingSettings(train_steps=5, pgd_steps=10, max_rounds=20, stop_error=0.0)
    ball = LpBall("linf", 0.15)
    losses = []
    known = knowledge()
    for attack in (
        error_minimising_noise(perturbation=WIDE, alternating=settings),
        robust_minimising_noise(perturbation=WIDE, alternating=settings, adversary=0.15),
    ):
        samples = attack(CLEAN, knowledge()).samples
        view = known.fit(samples)
        assert isinstance(view, View)
        hard = pgd(cross_entropy_gradient(view, samples.y), samples.x, ball, steps=10, step_size=0.03)
        losses.append(float(cross_entropy(view.outputs(hard), samples.y)))
    assert losses[1] < losses[0]
