"""Influences through nets: against derivatives, against training again, choices, budgets, determinism, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from tests.attacks.poison_problems import central_differences, gaussians
from torch import nn
from torch.nn.functional import cross_entropy

from taster.attacks import CurvatureSettings, DatasetKnowledge, DatasetPoisonSettings, influence_selection
from taster.attacks.dataset.influence_selection import most_harmful_labels
from taster.attacks.dataset.influences import LinearInfluences, NetInfluences, net_influences
from taster.core.batch import Batch
from taster.core.fitting import Fit
from taster.core.param_vectors import flatten
from taster.core.training_settings import TrainingSettings
from taster.derivatives.convex_models import ConvexSettings, train_convex
from taster.errors import AttackError, ModelError
from taster.offline import EstimatorTraining, NetTraining

CLEAN, OWN = gaussians(60, 0, classes=3), gaussians(60, 1, classes=3)
TIGHT = CurvatureSettings(cg_tolerance=1e-9)


def make_net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def training(epochs: int = 10) -> NetTraining:
    settings = TrainingSettings(epochs=epochs, batch_size=20, learning_rate=0.1, weight_decay=0.01)
    return NetTraining(make_net, settings, input_range=(-4.0, 4.0))


def linear_training() -> NetTraining:
    """Softmax regression that comes to its minimum: full batches."""
    settings = TrainingSettings(epochs=400, batch_size=60, learning_rate=1.0, weight_decay=0.02)

    def make(seed: int) -> nn.Module:
        net = nn.Linear(3, 3).double()
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
        return net

    return NetTraining(make, settings, input_range=(-4.0, 4.0))


def knows(fit: Fit, seed: int = 0) -> DatasetKnowledge:
    return DatasetKnowledge(3, OWN, (fit,), torch.Generator().manual_seed(seed), -4.0, 4.0)


def influences(fit: NetTraining, nets: int = 1, damping: float = 0.05) -> NetInfluences:
    return net_influences(CLEAN, knows(fit), TIGHT, nets=nets, first=0, damping=damping)


def poisoned(fit: Fit, seed: int = 0, **settings: Any) -> Batch:
    attack = influence_selection(poison=DatasetPoisonSettings(poison_fraction=0.2), **settings)
    found = attack(CLEAN, knows(fit, seed))
    assert int(found.poisoned.sum()) <= 12
    return found.samples


def test_influence_is_minus_each_gradient_times_the_solution_and_its_mean_over_nets() -> None:
    found = influences(training(), nets=2)
    expected = torch.zeros(len(CLEAN), dtype=torch.float64)
    for view, along in zip(found.views, found.along, strict=True):
        for i in range(len(CLEAN)):
            slope = flatten(view.loss_gradient(CLEAN.x[i : i + 1], CLEAN.y[i : i + 1]))
            expected[i] -= slope @ flatten(along) / 2
    torch.testing.assert_close(found.influence(CLEAN.x, CLEAN.y), expected, atol=1e-12, rtol=1e-9)
    losses = torch.stack(
        [cross_entropy(view.forward(CLEAN.x), CLEAN.y, reduction="none") for view in found.views]
    ).mean(0)
    torch.testing.assert_close(found.losses(CLEAN.x, CLEAN.y), losses.detach())


def test_slope_is_the_derivative_of_the_influence() -> None:
    found = influences(training(), nets=2)
    x, y = CLEAN.x[:3], CLEAN.y[:3]
    direct = central_differences(lambda moved: float(found.influence(moved, y).sum()), x)
    torch.testing.assert_close(found.slope(x, y), direct, atol=1e-7, rtol=1e-6)


def test_a_net_without_hidden_units_has_the_influences_of_the_linear_model() -> None:
    learned = train_convex(ConvexSettings(l2=0.02), CLEAN.x, CLEAN.y, 3)
    linear = LinearInfluences(learned, learned.solve(learned.mean_loss_gradient(OWN.x, OWN.y)))
    found = influences(linear_training(), damping=0.0)
    for ours, theirs in (
        (found.influence(CLEAN.x, CLEAN.y), linear.influence(CLEAN.x, CLEAN.y)),
        (found.slope(CLEAN.x, CLEAN.y), linear.slope(CLEAN.x, CLEAN.y)),
        (found.losses(CLEAN.x, CLEAN.y), linear.losses(CLEAN.x, CLEAN.y)),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)


def test_influence_of_flips_orders_them_as_training_a_net_further_does() -> None:
    """Each flip is trained on from the clean net by full batches, so that chance does not hide what it does."""
    settings = TrainingSettings(epochs=150, batch_size=60, learning_rate=0.5, weight_decay=0.02)
    fit = NetTraining(make_net, settings, input_range=(-4.0, 4.0))
    found = net_influences(CLEAN, knows(fit), TIGHT, nets=1, first=0, damping=0.0)
    flipped = most_harmful_labels(found.influence, CLEAN.x, CLEAN.y, 3)
    assert bool((flipped != CLEAN.y).all())
    predicted = found.influence(CLEAN.x, flipped) - found.influence(CLEAN.x, CLEAN.y)
    rows = list(range(0, 60, 6))
    before = float(found.views[0].loss(OWN.x, OWN.y))
    actual = []
    for i in rows:
        y = CLEAN.y.clone()
        y[i] = flipped[i]
        again = fit.resume(found.views[0], Batch(CLEAN.x, y))
        actual.append(float(again.loss(OWN.x, OWN.y)) - before)
    assert spearmanr(predicted[rows], actual).statistic > 0.8


@pytest.mark.parametrize("perturbation", ["label_flip", "noise", "gradient"])
def test_the_same_seed_gives_the_same_bits_within_the_budget(perturbation: str) -> None:
    settings = {"perturbation": perturbation, "epsilon": 0.3, "rounds": 2, "nets": 2}
    settings["solver"] = CurvatureSettings(curvature_samples=30)
    one, other = poisoned(training(3), **settings), poisoned(training(3), **settings)
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.y, other.y)
    if perturbation == "label_flip":
        assert torch.equal(one.x, CLEAN.x)
        assert not torch.equal(one.y, CLEAN.y)
    else:
        assert torch.equal(one.y, CLEAN.y)
        assert 0 < float((one.x - CLEAN.x).abs().max()) <= 0.3 + 1e-12


def test_largest_losses_are_those_of_the_net() -> None:
    changed = (poisoned(training(), select="loss").y != CLEAN.y).nonzero().flatten()
    losses = training()(CLEAN).sample_losses(CLEAN.x, CLEAN.y)
    assert changed.tolist() == losses.topk(12).indices.sort().values.tolist()


def test_chosen_flips_raise_the_nets_loss_more_than_others() -> None:
    harm = {
        select: sum(
            float(training()(poisoned(training(), seed, select=select), seed=seed).loss(OWN.x, OWN.y))
            for seed in range(3)
        )
        for select in ("influence", "loss", "random")
    }
    assert harm["influence"] > harm["random"]
    assert harm["influence"] > harm["loss"]


def test_auto_goes_by_the_training() -> None:
    assert torch.equal(poisoned(training()).y, poisoned(training(), learner="net").y)
    estimator = EstimatorTraining(lambda seed: LogisticRegression(), 3)
    assert torch.equal(poisoned(estimator).y, poisoned(training(), learner="linear").y)
    assert not torch.equal(poisoned(estimator).y, poisoned(training()).y)
    with pytest.raises(AttackError, match="influence_selection: got the training of an estimator"):
        poisoned(estimator, learner="net")


def test_a_hessian_that_is_not_positive_is_told() -> None:
    with pytest.raises(ModelError, match="raise damping"):
        poisoned(training(1), damping=0.0, solver=CurvatureSettings(curvature="hessian", cg_tolerance=1e-6))
