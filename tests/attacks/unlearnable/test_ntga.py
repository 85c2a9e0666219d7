"""The tangent kernel beside wide nets and their training, and the attack that is made by it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.attacks.unlearnable.noise_problems import images, knowledge
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import cross_entropy, one_hot

from taster.attacks import PerturbationSettings, ntga, random_class_noise
from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.unlearnable.tangent_kernel import gradient_flow, tangent_kernel
from taster.core.batch import Batch
from taster.errors import AttackError

CLEAN = images(30)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Scaled(nn.Module):
    """A wide net in the parametrisation of the tangent kernel."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(drawn(out, inputs, seed=i) for i, (inputs, out) in enumerate(pairwise(sizes)))

    def forward(self, x: Tensor) -> Tensor:
        for i, weight in enumerate(self.weights):
            x = x @ weight.T * ((2.0 if i else 1.0) / x.shape[-1]) ** 0.5
            x = x.relu() if i < len(self.weights) - 1 else x
        return x


@pytest.mark.parametrize("depth", [1, 2])
def test_the_kernel_is_that_of_a_wide_net(depth: int) -> None:
    width = 4000 if depth == 1 else 1500
    net = Scaled([6, *[width] * depth, 1])
    x = drawn(4, 6, seed=9)
    params = dict(net.named_parameters())

    def jacobian(one: Tensor) -> Tensor:
        found = jacrev(lambda p: functional_call(net, p, (one,))[0])(params)
        return torch.cat([value.flatten() for value in found.values()])

    rows = vmap(jacobian)(x)
    empirical = (rows @ rows.T).detach()
    torch.testing.assert_close(tangent_kernel(x, x, depth), empirical, rtol=0.1, atol=0.1)


def test_the_kernel_in_closed_form() -> None:
    a, b = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
    # At a right angle κ₀ = 1/2 and κ₁ = 1/π, and Θ⁰ = 0.
    assert float(tangent_kernel(a, b, 1)) == pytest.approx(1.5 / torch.pi)
    # Of a sample with itself each layer adds |a|² / d.
    assert float(tangent_kernel(b, b, 3)) == pytest.approx(4 * 4.5, rel=1e-4)


def test_gradient_flow_is_the_limit_of_many_small_steps() -> None:
    x, test, y = drawn(5, 6), drawn(3, 6, seed=1), drawn(5, 2, seed=2)
    train, other = tangent_kernel(x, x, 2), tangent_kernel(test, x, 2)
    time, steps = 3.0, 20000
    f, g = torch.zeros(5, 2).double(), torch.zeros(3, 2).double()
    for _ in range(steps):
        residual = (y - f) * (time / steps / 5)
        f, g = f + train @ residual, g + other @ residual
    torch.testing.assert_close(gradient_flow(train, other, y, time), g, rtol=1e-3, atol=1e-4)


def test_gradient_flow_without_end_is_regression() -> None:
    x, y = drawn(5, 6), drawn(5, 2, seed=2)
    train = tangent_kernel(x, x, 2)
    torch.testing.assert_close(gradient_flow(train, train, y, 1e4), y, rtol=1e-3, atol=1e-3)


def test_the_gradient_in_the_samples_against_differences() -> None:
    x, test, y = drawn(4, 5), drawn(3, 5, seed=1), drawn(4, 2, seed=2)

    def predicted(at: Tensor) -> Tensor:
        return gradient_flow(tangent_kernel(at, at, 2), tangent_kernel(test, at, 2), y, 5.0)

    assert torch.autograd.gradcheck(predicted, x.requires_grad_(), eps=1e-6, atol=1e-4, rtol=1e-3)


def test_a_sample_of_zeros_has_a_gradient() -> None:
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(tangent_kernel(x, drawn(3, 4), 2).sum(), x)
    assert bool(found.isfinite().all())


def test_the_kernel_generalises_worse_from_perturbed_samples_than_from_random_noise() -> None:
    known = knowledge()
    perturbation = PerturbationSettings(epsilon=0.1)
    losses = []
    for attack in (ntga(perturbation=perturbation, block_size=30), random_class_noise(perturbation=perturbation)):
        x = attack(CLEAN, knowledge()).samples.x.flatten(1).double()
        test = known.own.x.flatten(1).double()
        targets = one_hot(CLEAN.y, 3).double()
        found = gradient_flow(tangent_kernel(x, x, 3), tangent_kernel(test, x, 3), targets, 1000.0)
        losses.append(float(cross_entropy(found, known.own.y)))
    assert losses[0] > losses[1] + 0.1


def test_blocks_do_not_see_each_other() -> None:
    attack = ntga(block_size=15)
    whole = attack(CLEAN, knowledge()).samples.x
    first = attack(CLEAN.select(slice(0, 15)), knowledge()).samples.x
    assert torch.equal(whole[:15], first)


def test_own_samples_of_another_shape_are_refused() -> None:
    own = Batch(torch.rand(4, 1, 5, 5), torch.arange(4) % 3)
    with pytest.raises(AttackError, match=r"ntga: the attacker's own samples: got \[4, 1, 5, 5\], wanted \[m, 1, 6"):
        ntga()(CLEAN, DatasetKnowledge(3, own, (), torch.Generator()))
