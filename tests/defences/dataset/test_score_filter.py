"""Filters by scores of features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, NetFit, defended, digit_sets, run_of

from taster import Batch
from taster.core.view import View
from taster.defences import score_filter
from taster.errors import DefenceError, ModelError, SettingError
from taster.scores.activation_clustering import activation_clusters
from taster.scores.spectral_signature import spectral_signatures


def backdoored(train: Batch, count: int) -> tuple[Batch, torch.Tensor]:
    """A bright block in the corner of images that are called zeros, and which."""
    places = (train.y != 0).nonzero().flatten()[:count]
    x, y = train.x.clone(), train.y.clone()
    x[places, :, :3, :3], y[places] = 1.0, 0
    return replace(train, x=x, y=y), torch.zeros(len(y), dtype=torch.bool).index_fill(0, places, True)


def features(samples: Batch) -> torch.Tensor:
    view = NetFit()(samples, seed=0)
    assert isinstance(view, View)
    return view.features(samples.x)[0].detach()


def removed(samples: Batch, **settings: Any) -> torch.Tensor:
    _, weights = defended(score_filter(**settings), run_of(samples, samples, NetFit()))
    assert weights is not None
    return weights == 0


def test_it_removes_the_highest_scores_of_each_label() -> None:
    train, _, _ = digit_sets(300)
    scores = spectral_signatures(features(train), train.y)
    expected = []
    for label in range(10):
        own = [i for i in range(300) if int(train.y[i]) == label]
        expected += sorted(own, key=lambda i: -float(scores[i]))[: int(0.2 * len(own))]
    assert removed(train, share=0.2).nonzero().flatten().tolist() == sorted(expected)
    top = sorted(range(300), key=lambda i: -float(scores[i]))[:60]
    assert removed(train, share=0.2, by_label=False).nonzero().flatten().tolist() == sorted(top)


def test_a_threshold_takes_whole_clusters_and_holds_the_share() -> None:
    train, _, _ = digit_sets(300)
    scores = activation_clusters(features(train), train.y)
    threshold = float(scores[scores > 0].median())
    found = removed(train, score="activation_clustering", share=0.5, threshold=threshold)
    assert torch.equal(found, scores > threshold)
    assert 0 < int(found.sum()) < 150


@pytest.mark.parametrize(
    "settings", [{"share": 0.35}, {"score": "activation_clustering", "share": 0.5, "threshold": 0.2}]
)
def test_it_finds_samples_with_a_trigger(settings: dict[str, Any]) -> None:
    train, _, _ = digit_sets(600)
    samples, poisoned = backdoored(train, 20)
    found = removed(samples, **settings)
    zeros = samples.y == 0
    missed, lost = float((~found[poisoned]).float().mean()), float(found[zeros & ~poisoned].float().mean())
    assert missed < 0.4
    assert lost < 0.3


def test_only_nets_have_features() -> None:
    train, _, _ = digit_sets(100)
    with pytest.raises(DefenceError, match=r"without features, a Logistic, wanted a net \(a taster.View\)"):
        defended(score_filter(), run_of(train, train, LogisticFit()))
    with pytest.raises(ModelError, match="layer"):
        defended(score_filter(layer="nowhere"), run_of(train, train, NetFit()))
    for settings in ({"share": 0.0}, {"score": "loss"}, {"threshold": -1.0}):
        with pytest.raises(SettingError):
            score_filter(**settings)  # type: ignore[arg-type]
