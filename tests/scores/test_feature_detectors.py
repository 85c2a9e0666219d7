"""Detectors against brute force, known distributions and each other."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.defences import anomaly_screen
from taster.errors import GuardError, ModelError
from taster.scores.feature_detectors import DETECTORS, FeatureAnomalyScore


class Identity(nn.Module):
    """Features are the samples; the class is the nearest of three corners."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Identity()
        self.fc = nn.Linear(2, 3)
        self.fc.weight.data = 2 * CORNERS
        self.fc.bias.data = -CORNERS.square().sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.look(x))


CORNERS = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])


def blobs(n: int, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return Batch(CORNERS[y] + torch.randn(n, 2, generator=g) * torch.tensor([1.0, 0.5]), y)


def plane() -> Learner:
    model = Identity()
    return Learner(model, torch.optim.SGD(model.parameters(), lr=0.0), cross_entropy, input_range=None)


@pytest.mark.parametrize("kind", DETECTORS)
def test_outliers_score_higher(kind: Any) -> None:
    view = plane().view()
    detector = FeatureAnomalyScore(kind, blobs(300), neighbors=20)
    clean = detector(blobs(150, seed=1), view)
    strange = Batch(torch.rand(150, 2, generator=torch.Generator().manual_seed(2)) * 20 + 10, torch.zeros(150).long())
    assert clean.shape == (150,)
    assert bool(clean.isfinite().all())
    higher = (detector(strange, view)[:, None] > clean[None, :]).float().mean()
    assert float(higher) > 0.99  # the area under the ROC curve


def test_the_gaussians_are_their_formula() -> None:
    view, clean, batch = plane().view(), blobs(300), blobs(20, seed=3)
    right = Identity()(clean.x).argmax(1) == clean.y
    x, y = clean.x[right].double().numpy(), clean.y[right].numpy()
    groups = [x[y == c] for c in range(3)]
    centred = [group - group.mean(0) for group in groups]
    own = [LedoitWolf(assume_centered=True).fit(c).covariance_ for c in centred]
    tied = [LedoitWolf(assume_centered=True).fit(numpy.concatenate(centred)).covariance_] * 3
    for kind, covariances in (("gaussian", tied), ("mixture", own)):
        likelihood = sum(
            len(g) / len(x) * multivariate_normal(g.mean(0), s).pdf(batch.x.double().numpy())
            for g, s in zip(groups, covariances, strict=True)
        )
        found = FeatureAnomalyScore(kind, clean)(batch, view)
        torch.testing.assert_close(found.double(), -torch.from_numpy(likelihood).log(), rtol=1e-4, atol=1e-4)


def test_the_kernel_density_is_its_formula() -> None:
    view, clean, batch = plane().view(), blobs(90), blobs(12, seed=3)
    model = Identity()
    right = model(clean.x).argmax(1) == clean.y
    expected = []
    for z, label in zip(batch.x, model(batch.x).argmax(1), strict=True):
        group = clean.x[right & (clean.y == label)]
        expected.append(-float(torch.exp(-(group - z).square().sum(1) / 0.7**2).mean().log()))
    found = FeatureAnomalyScore("kernel_density", clean, bandwidth=0.7)(batch, view)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert bool(FeatureAnomalyScore("kernel_density", clean, bandwidth=0.01)(batch, view).isfinite().all())


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_local_dimension_is_that_of_the_data(dimensions: int) -> None:
    """Uniform points of a square have two dimensions, those of a line one."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3000, 2, generator=g)
    x[:, dimensions:] = 0
    clean = Batch(x * 2, torch.zeros(3000).long())  # all of the first class
    inner = Batch(0.5 + x[:200], torch.zeros(200).long())
    if dimensions == 1:
        inner.x[:, 1] = 0
    found = FeatureAnomalyScore("lid", clean, neighbors=100)(inner, plane().view())
    assert float(found.mean()) == pytest.approx(dimensions, rel=0.1)


def test_layers_are_chosen_by_name_and_bad_ones_are_errors() -> None:
    learner = tiny_learner()
    view, batch = learner.view(), tiny_batch(60)
    before = full_state(learner)
    rows, logits = view.features(batch.x)
    assert rows.shape == (60, 4)  # what goes into the linear layer
    assert torch.equal(logits, view.forward(batch.x))
    spread, _ = view.features(batch.x, "bn")
    assert torch.allclose(spread, learner.model.bn.eval()(learner.model.conv(batch.x)).mean((2, 3)), atol=1e-5)
    learner.model.train()
    assert same_state(before, full_state(learner))
    with pytest.raises(ModelError, match="wanted one of conv, bn, dropout, fc"):
        view.features(batch.x, "relu")
    with pytest.raises(GuardError, match="wanted one of kernel_density"):
        FeatureAnomalyScore("svm", batch)  # type: ignore[arg-type]
    wrong = Batch(batch.x, (view.forward(batch.x).argmax(1) + 1) % 3)
    with pytest.raises(GuardError, match="more clean samples"):
        FeatureAnomalyScore("gaussian", wrong)(batch, view)


@pytest.mark.parametrize("kind", DETECTORS)
def test_as_a_screen_it_learns_and_resumes_from_its_state(kind: Any) -> None:
    def build() -> Any:
        return anomaly_screen(tiny_batch(120, seed=5), detector=kind, neighbors=10, refit_every=2, quantile=0.8)

    learner = tiny_learner(guard=build())
    records = [learner.step(tiny_batch(16, seed=i)) for i in range(5)]
    assert any(record.dropped for record in records)
    assert any(record.verdict.committed for record in records)
    twin = build()
    twin.load_state_dict(learner.guard.state_dict())
    batch, view = tiny_batch(16, seed=77), learner.view()
    ours, theirs = (guard.screens[0].score(batch, view) for guard in (learner.guard, twin))
    assert torch.equal(ours, theirs)
    assert learner.guard.screens[0].threshold(view) == twin.screens[0].threshold(view)
