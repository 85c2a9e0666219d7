"""Noise that nets make: derivatives by finite differences, what each does, clusters, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.unlearnable.noise_problems import CLASSES, images, knowledge, sizes, training
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.attacks import DATASET_ATTACKS, PerturbationSettings, deep_confuse, unlearnable_clusters
from taster.attacks.surrogate import trained
from taster.attacks.unlearnable.deep_confuse import ConfuseSettings, Harm
from taster.attacks.unlearnable.perturbation_net import PerturbationNet, perturbation_net, perturbations
from taster.attacks.unlearnable.unlearnable_clusters import ClusterSettings, features, k_means, spread
from taster.core.batch import Batch
from taster.core.learner import Learner
from taster.core.view import View
from taster.derivatives import Derivatives, DiffMethod
from taster.errors import AttackError, SettingError
from taster.perturbations.pgd import LpBall

CLEAN = images(60)
WIDE = PerturbationSettings(epsilon=0.3)
EXACT = Derivatives(DiffMethod("double_backward"))
BALL = LpBall("linf", 0.2)


def double_net(ball: LpBall = BALL) -> PerturbationNet:
    torch.manual_seed(5)
    return PerturbationNet(1, 2, ball).double()


def double_view(batch_norm: bool = False) -> View:
    torch.manual_seed(4)
    middle: list[nn.Module] = [nn.BatchNorm1d(5)] if batch_norm else []
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), *middle, nn.Tanh(), nn.Linear(5, 3)).double()
    return Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), cross_entropy).view()


def double_images(n: int) -> Batch:
    found = images(n)
    return Batch(found.x.double().clamp(0.25, 0.75), found.y)  # where no perturbation is clipped


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 7, 9), (2, 1, 1)])
def test_what_the_net_makes_has_the_images_shape_and_is_in_the_ball(norm: Any, shape: tuple[int, ...]) -> None:
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    net = perturbation_net(x, 4, LpBall(norm, 0.3), torch.Generator().manual_seed(1), "mine")
    made = perturbations(net, 100 * x, chunk=2)
    assert made.shape == x.shape
    assert 0.005 < float(sizes(made, norm).max()) <= 0.3 + 1e-6
    again = perturbation_net(x, 4, LpBall(norm, 0.3), torch.Generator().manual_seed(1), "mine")
    assert torch.equal(perturbations(again, 100 * x), net(100 * x))


def test_making_a_net_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    perturbation_net(CLEAN.x, 4, BALL, torch.Generator().manual_seed(1), "mine")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_gradient_through_the_step_is_that_of_central_differences(targeted: bool, batch_norm: bool) -> None:
    net, view, clean = double_net(), double_view(batch_norm), double_images(6)
    harm = Harm(view, 0.5, ConfuseSettings(targeted=targeted, label_shift=2), CLASSES, EXACT)
    value = harm.backward(net, clean, BALL)
    found = {name: param.grad.clone() for name, param in net.named_parameters() if param.grad is not None}
    assert len(found) == 10
    params, step = dict(net.named_parameters()), 1e-5
    for name, place in [("top.weight", (1, 0, 1, 2)), ("down.bias", (2,)), ("last.weight", (0, 3, 1, 1))]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                params[name][place] += sign * step
            ends.append(harm.backward(net, clean, BALL))
            with torch.no_grad():
                params[name][place] -= sign * step
        assert float(found[name][place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-10)
    assert (value < 0) == targeted


def test_harm_is_the_clean_loss_after_a_step_of_sgd_on_perturbed_samples() -> None:
    net, view, clean = double_net(), double_view(), double_images(6)
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    torch.autograd.backward(cross_entropy(model(clean.x + net(clean.x).detach()), clean.y))
    optimizer.step()
    found = Harm(view, 0.5, ConfuseSettings(), CLASSES, EXACT).backward(net, clean, BALL)
    assert found == pytest.approx(cross_entropy(model(clean.x), clean.y).item(), rel=1e-9)


def test_one_step_of_a_trial_is_an_adam_step_on_the_harm_at_the_first_weights() -> None:
    known = knowledge(training(batch_size=60))
    settings = ConfuseSettings(trials=1, trial_steps=1, net_learning_rate=0.01)
    found = deep_confuse(EXACT, perturbation=WIDE, confuse=settings)(CLEAN, known).samples.x

    again = knowledge(training(batch_size=60))
    order = torch.randperm(60, generator=again.generator)  # which samples are protected: all of them
    assert len(order) == 60
    ball = LpBall("linf", 0.3)
    net = perturbation_net(CLEAN.x, 16, ball, again.generator, "deep_confuse")
    optimizer = torch.optim.Adam(net.parameters(), 0.01, maximize=True)
    view = training(batch_size=60).learner(0).view()
    Harm(view, 2.0, settings, CLASSES, EXACT).backward(net, CLEAN, ball)
    optimizer.step()
    wanted = ball.project(CLEAN.x + perturbations(net, CLEAN.x), CLEAN.x)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("targeted", [False, True])
def test_ascent_raises_the_harm(targeted: bool) -> None:
    net, view, clean = double_net(), double_view(), double_images(12)
    harm = Harm(view, 2.0, ConfuseSettings(targeted=targeted), CLASSES, EXACT)
    optimizer = torch.optim.Adam(net.parameters(), 0.01, maximize=True)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        values.append(harm.backward(net, clean, BALL))
        optimizer.step()
    assert values[-1] > values[0] + 0.02


def test_clusters_are_those_of_lloyds_end() -> None:
    """Each row is nearest to the mean of its own cluster, and blobs apart from each other are found."""
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    truth = torch.arange(60) % 3
    rows = centres[truth] + torch.randn(60, 2, generator=g)
    found = k_means(rows, 3, torch.Generator().manual_seed(1))
    means = torch.stack([rows[found == c].mean(0) for c in range(3)])
    assert torch.equal(torch.cdist(rows, means).argmin(1), found)
    assert all(len(set(found[truth == c].tolist())) == 1 for c in range(3))


def test_the_gradient_of_the_distance_is_that_of_central_differences() -> None:
    view, x = double_view(), double_images(4).x
    goal = torch.linspace(-1, 1, 5, dtype=torch.float64)
    net, z = double_net(), torch.rand(1, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value() -> Tensor:
        return spread([view, view], BALL.project(x + net(z), x), [goal, -goal], None)

    torch.autograd.backward(value())
    slope, step = net.last.weight.grad, 1e-5
    assert slope is not None
    for place in [(0, 0, 1, 1), (0, 3, 0, 2)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                net.last.weight[place] += sign * step
                ends.append(value().item())
                net.last.weight[place] -= sign * step
        assert float(slope[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_each_cluster_has_one_perturbation_which_takes_it_to_the_next_centre() -> None:
    known = knowledge()
    settings = ClusterSettings(clusters=3, passes=150, net_learning_rate=3e-3)
    samples = unlearnable_clusters(perturbation=WIDE, cluster=settings)(CLEAN, known).samples
    view = trained(training(), known.own, torch.Generator())
    before, after = features(view, CLEAN.x), features(view, samples.x)
    # The attack draws which samples it protects, and then the seed of k-means.
    draws = torch.Generator().manual_seed(0)
    torch.randperm(60, generator=draws)
    members = k_means(before, 3, draws)
    change = samples.x - CLEAN.x
    for c in range(3):
        inside = members == c
        # Where nothing was clipped to [0, 1] the change is the same for all of a cluster.
        free = ((samples.x[inside] > 0) & (samples.x[inside] < 1)).all(0)
        assert float((change[inside] - change[inside][:1])[:, free].abs().max()) < 1e-6
        goal = before[members == (c + 1) % 3].mean(0)
        moved = (after[inside] - goal).square().sum(1).mean()
        assert float(moved) < 0.6 * float((before[inside] - goal).square().sum(1).mean())


def test_labels_of_protected_samples_are_not_looked_at() -> None:
    attack = unlearnable_clusters(perturbation=WIDE, cluster=ClusterSettings(clusters=3, passes=2))
    other = Batch(CLEAN.x, (CLEAN.y + 1) % CLASSES)
    assert torch.equal(attack(CLEAN, knowledge()).samples.x, attack(other, knowledge()).samples.x)


def test_what_cannot_be_is_told() -> None:
    flat = Batch(CLEAN.x.flatten(1), CLEAN.y)
    for attack in (deep_confuse(), unlearnable_clusters(cluster=ClusterSettings(clusters=3))):
        with pytest.raises(AttackError, match=r"got samples \[36\], wanted images \[channels, height, width\]"):
            attack(flat, knowledge())
    with pytest.raises(AttackError, match="label_shift: got 3, which leaves each of 3 classes"):
        deep_confuse(confuse=ConfuseSettings(targeted=True, label_shift=3))(CLEAN, knowledge())
    with pytest.raises(AttackError, match="clusters: got 61 for 60 samples"):
        unlearnable_clusters(cluster=ClusterSettings(clusters=61))(CLEAN, knowledge())
    with pytest.raises(AttackError, match="clusters: got 5 for features of 1 values"):
        unlearnable_clusters(cluster=ClusterSettings(clusters=5))(Batch(CLEAN.x * 0, CLEAN.y), knowledge())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("deep_confuse", {"confuse": {"trials": 0}}),
        ("deep_confuse", {"confuse": {"net_learning_rate": 0.0}}),
        ("unlearnable_clusters", {"cluster": {"clusters": 1}}),
        ("unlearnable_clusters", {"cluster": {"passes": 0}}),
    ],
    ids=str,
)
def test_settings_out_of_bounds_are_told(name: str, settings: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(SettingError, match=next(iter(next(iter(settings.values()))))):
        DATASET_ATTACKS[name](**settings)
