"""Scores that look for backdoors rank planted poison above clean samples."""

from __future__ import annotations

import math

import pytest
import torch
from tests.attacks.conftest import easy_batch, easy_learner
from tests.attacks.test_backdoors import stripe
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, SnapshotBuffer
from taster.errors import BatchError, SnapshotError
from taster.scores.activation_clustering import activation_clusters
from taster.scores.perturbation_consistency import PerturbationConsistency
from taster.scores.registry import activation_clustering, loss_isolation, spectral_signature
from taster.scores.spectral_signature import spectral_signatures


def planted(n: int = 60, count: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of two labels, the poisoned samples of one shifted; labels; and which are poisoned."""
    g = torch.Generator().manual_seed(0)
    features, labels = torch.randn(n, 6, generator=g), torch.arange(n) % 2
    poisoned = torch.zeros(n, dtype=torch.bool)
    poisoned[: 2 * count : 2] = True  # of label 0
    features[labels == 1] += 50.0  # what differs between labels does not count
    features[poisoned, 0] += 8.0
    return features, labels, poisoned


def test_spectral_signatures_find_what_is_shifted_within_a_label() -> None:
    features, labels, poisoned = planted()
    found = spectral_signatures(features, labels)
    assert float(found[poisoned].min()) > float(found[~poisoned].max())
    own = features[labels == 0] - features[labels == 0].mean(0)
    direction = torch.linalg.eigh(own.T @ own).eigenvectors[:, -1]
    assert torch.allclose(found[labels == 0], (own @ direction).square(), rtol=1e-3, atol=1e-3)
    assert spectral_signatures(features[:1], labels[:1]).tolist() == [0.0]


def test_the_smaller_cluster_is_suspicious() -> None:
    features, labels, poisoned = planted()
    found = activation_clusters(features, labels)
    assert float(found[poisoned].min()) > 0.3
    assert bool((found[(labels == 0) & ~poisoned] == 0).all())
    assert float(found[labels == 1].max()) < float(found[poisoned].min())
    assert activation_clusters(torch.ones(9, 3), torch.zeros(9)).tolist() == [0.0] * 9


def backdoored() -> Learner:
    learner = easy_learner()
    assert learner.snapshots is None or not learner.snapshots.capacity
    model, optimizer = learner.model, learner.optimizer
    fresh = Learner(model, optimizer, cross_entropy, snapshots=SnapshotBuffer(capacity=2))
    assert fresh.snapshots is not None
    fresh.snapshots.pin("before", fresh.snapshot())
    for i in range(80):
        clean = easy_batch(60, seed=300 + i)
        x, y = clean.x.clone(), clean.y.clone()
        x[:6], y[:6] = stripe(x[:6]), 1
        fresh.step(Batch(x, y))
    return fresh


def test_what_a_backdoored_model_does_not_doubt_ranks_high() -> None:
    view, clean = backdoored().view(), easy_batch(40, seed=5)
    score = PerturbationConsistency(easy_batch(10, seed=6))
    triggered, plain = score(Batch(stripe(clean.x), clean.y), view), score(clean, view)
    assert triggered.shape == (40,)
    assert float(triggered.mean()) > float(plain.mean())
    # By hand, of one sample.
    blends = (clean.x[:1] + easy_batch(10, seed=6).x) / 2
    p = view.outputs(blends).softmax(1)
    assert float(plain[0]) == pytest.approx(float((p * p.log()).sum(1).mean()), abs=1e-5)
    assert -math.log(3) <= float(plain.min()) <= float(plain.max()) <= 0


def test_poison_is_what_the_loss_has_fallen_on() -> None:
    learner, clean = backdoored(), easy_batch(40, seed=5)
    others = clean.select(clean.y != 1)
    poison = Batch(stripe(others.x), torch.ones_like(others.y))
    fall = loss_isolation(reference_model="before")
    assert float(fall(poison, learner.view()).min()) > float(fall(clean, learner.view()).max())
    assert torch.allclose(loss_isolation()(clean, learner.view()), -learner.view().sample_losses(clean))
    with pytest.raises(SnapshotError):
        loss_isolation(reference_model="never")(clean, learner.view())


@pytest.mark.parametrize("make", [spectral_signature, activation_clustering])
def test_scores_of_features_are_of_the_layer_and_the_batch(make: object) -> None:
    view, batch = easy_learner().view(), easy_batch(40)
    measure = {"spectral_signature": spectral_signatures, "activation_clustering": activation_clusters}[make.__name__]  # type: ignore[attr-defined]
    features, _ = view.features(batch.x, "1")
    assert torch.equal(make(layer="1")(batch, view), measure(features, batch.y))  # type: ignore[operator]
    with pytest.raises(BatchError, match="one tensor"):
        make()(Batch({"x": batch.x, "labels": batch.y}), view)  # type: ignore[operator]


def test_overlays_are_replaced_by_as_many() -> None:
    score = PerturbationConsistency(easy_batch(4))
    score.set_trusted_data(easy_batch(9, seed=1))
    view, batch = easy_learner().view(), easy_batch(3)
    assert torch.equal(score(batch, view), PerturbationConsistency(easy_batch(9, seed=1).select(slice(4)))(batch, view))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    other = Learner(flat, torch.optim.SGD(flat.parameters(), lr=0.1), cross_entropy)
    with pytest.raises(BatchError, match="cannot take the trusted samples"):
        score.check_model(other.view())
