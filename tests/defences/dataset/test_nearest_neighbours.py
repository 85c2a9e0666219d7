"""Sanitation by nearest neighbours."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.defences.dataset.conftest import (
    LogisticFit,
    NetFit,
    accuracy,
    blobs,
    defended,
    digit_sets,
    flipped,
    run_of,
)

from taster import Batch
from taster.defences import DatasetDefence, RobustTraining, nearest_neighbour_sanitation
from taster.defences.dataset import nearest_neighbours
from taster.errors import DefenceError, SettingError


def removed(samples: Batch, classes: int, **settings: object) -> list[int]:
    defence = nearest_neighbour_sanitation(space="input", **settings)  # type: ignore[arg-type]
    assert isinstance(defence, DatasetDefence)
    weights = defence.weigh(run_of(samples, samples, LogisticFit(classes), classes))
    return (weights == 0).nonzero().flatten().tolist()


def plain(samples: Batch, k: int, agreement: float = 0.0) -> tuple[list[int], dict[int, int]]:
    """Who is suspected, and the label of the neighbours, sample by sample."""
    rows, y, suspected, labels = samples.x.double(), samples.y.tolist(), [], {}
    for i in range(len(y)):
        others = sorted((j for j in range(len(y)) if j != i), key=lambda j: (float((rows[i] - rows[j]).norm()), j))
        votes = Counter(y[j] for j in others[:k])
        most = max(votes.values())
        if votes[y[i]] < most and most >= agreement * k - 1e-9:
            suspected.append(i)
            labels[i] = min(label for label, count in votes.items() if count == most)
    return suspected, labels


@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.8])
def test_it_removes_whom_the_plurality_contradicts(k: int, agreement: float, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = flipped(blobs(90, spread=0.6), 0.2, 3)
    expected, _ = plain(samples, k, agreement)
    assert expected
    assert removed(samples, 3, neighbours=k, agreement=agreement) == expected
    monkeypatch.setattr(nearest_neighbours, "_AT_ONCE", 7 * 90)  # in chunks of seven rows
    assert removed(samples, 3, neighbours=k, agreement=agreement) == expected


def test_ties_keep_a_sample_and_the_first_of_equally_far_ones_are_nearer() -> None:
    places = torch.tensor([[0.0], [1.0], [-1.0], [1.0], [9.0], [9.5], [9.7], [10.0], [20.0], [20.5], [20.7], [21.0]])
    y = torch.tensor([0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    # Of sample 0, the nearest two are 1 and 2, with one label each: it stays. With three, 1 has two of them.
    assert 0 not in removed(Batch(places, y), 2, neighbours=2)
    assert 0 in removed(Batch(places, y), 2, neighbours=3)


def test_relabelled_samples_have_the_label_of_their_neighbours() -> None:
    samples, _ = flipped(blobs(90), 0.15, 3)
    seen: list[Batch] = []

    class Remembers(LogisticFit):
        def __call__(self, samples: Batch, /, **options: object) -> object:  # type: ignore[override]
            seen.append(samples)
            return super().__call__(samples, **options)  # type: ignore[arg-type]

    defence = nearest_neighbour_sanitation(neighbours=5, agreement=0.5, action="relabel", space="input")
    assert isinstance(defence, RobustTraining)
    _, weights = defence.train(run_of(samples, samples, Remembers(3), 3))
    expected, labels = plain(samples, 5, 0.5)
    assert weights is not None
    assert (weights == 0).nonzero().flatten().tolist() == expected
    assert seen[0].y.tolist() == [labels.get(i, label) for i, label in enumerate(samples.y.tolist())]


@pytest.mark.parametrize("action", ["remove", "relabel"])
@pytest.mark.parametrize("fit", [LogisticFit(c=10.0), NetFit(steps=40)], ids=["logistic", "net"])
def test_accuracy_comes_back_under_random_labels(action: str, fit: LogisticFit | NetFit) -> None:
    train, trusted, test = digit_sets()
    samples, wrong = flipped(train, 0.3, 10)
    defence = nearest_neighbour_sanitation(action=action)  # type: ignore[arg-type]
    classifier, weights = defended(defence, run_of(samples, trusted, fit))
    assert weights is not None
    assert float((weights[wrong] == 0).float().mean()) > 0.8
    assert accuracy(classifier, test) > accuracy(fit(samples), test)


def test_features_are_those_of_a_net_fitted_to_all_samples() -> None:
    train, trusted, _ = digit_sets(120)
    samples, _ = flipped(train, 0.2, 10)
    fit = NetFit()
    run = run_of(samples, trusted, fit)
    found = {}
    for space in ("auto", "features", "input"):
        defence = nearest_neighbour_sanitation(space=space)  # type: ignore[arg-type]
        assert isinstance(defence, DatasetDefence)
        found[space] = defence.weigh(run)
    assert fit.fits == 2
    assert torch.equal(found["auto"], found["features"])
    assert not torch.equal(found["auto"], found["input"])
    features = Batch(NetFit()(samples, seed=0).features(samples.x)[0].detach(), samples.y)
    assert (found["auto"] == 0).nonzero().flatten().tolist() == plain(features, 10)[0]


def test_what_cannot_work_is_refused() -> None:
    samples = blobs(30)
    run = run_of(samples, samples, LogisticFit(3), 3)
    defence = nearest_neighbour_sanitation(neighbours=30)
    assert isinstance(defence, DatasetDefence)
    with pytest.raises(DefenceError, match="30 neighbours of 30 samples"):
        defence.weigh(run)
    for settings in ({"space": "features"}, {"layer": "1"}):
        defence = nearest_neighbour_sanitation(**settings)  # type: ignore[arg-type]
        assert isinstance(defence, DatasetDefence)
        with pytest.raises(DefenceError, match="without features, a Logistic"):
            defence.weigh(run)
    with pytest.raises(SettingError, match="layer"):
        nearest_neighbour_sanitation(space="input", layer="1")
    with pytest.raises(SettingError, match="agreement"):
        nearest_neighbour_sanitation(agreement=1.5)
