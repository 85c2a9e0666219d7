"""Certified aggregation as a training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, accuracy, blobs, digit_sets, flipped, run_of

from taster import Batch
from taster.core.fitting import CertifiedClassifier
from taster.defences import finite_aggregation_training, partition_aggregation_training
from taster.defences.dataset.partition_training import VotingClassifier
from taster.defences.training import SGDSettings, votes_of
from taster.errors import DataError, SettingError

QUICK = SGDSettings(epochs=25)
BOTH = [partition_aggregation_training, finite_aggregation_training]


def trained(make: Any, samples: Batch, classes: int, seed: int = 0, **settings: Any) -> VotingClassifier:
    defence = make(sgd=QUICK, **settings)
    classifier, weights = defence.train(run_of(samples, samples, LogisticFit(classes), classes, seed))
    assert weights is None
    assert isinstance(classifier, CertifiedClassifier)
    return classifier  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("vote", ["plurality", "run_off"])
def test_outputs_are_shares_of_votes_and_the_greatest_is_the_prediction(make: Any, vote: str) -> None:
    samples, test = blobs(90, classes=5, spread=0.9), blobs(200, classes=5, seed=1, spread=0.9)
    settings = {"partitions": 8, "vote": vote} | ({"spread": 2} if make is finite_aggregation_training else {})
    found = trained(make, samples, 5, **settings)
    outputs, prediction = found.outputs(test.x), found.ensemble.predict(test.x)
    assert torch.equal(outputs.argmax(1), prediction.labels)
    assert torch.equal(found.radius(test.x), prediction.radius)
    votes = votes_of(found.ensemble.models.scores(test.x))
    shares = torch.stack([(votes == label).float().mean(1) for label in range(5)], 1)
    turned = shares.argmax(1) != prediction.labels
    assert bool(turned.any()) == (vote == "run_off")
    torch.testing.assert_close(outputs[~turned], shares[~turned])
    torch.testing.assert_close(outputs.sort(1).values[turned][:, :-1], shares.sort(1).values[turned][:, :-1])


@pytest.mark.parametrize("make", BOTH)
def test_poison_below_the_radius_changes_no_prediction(make: Any) -> None:
    samples, test = blobs(120, spread=0.4), blobs(60, seed=1, spread=0.4)
    settings = {"partitions": 12, "hidden": []}
    before = trained(make, samples, 3, **settings)
    poisoned, wrong = flipped(samples, 2 / 120, 3, seed=2)
    after = trained(make, poisoned, 3, **settings)
    withstood = before.radius(test.x) >= int(wrong.sum())
    assert float(withstood.float().mean()) > 0.5
    assert torch.equal(before.outputs(test.x).argmax(1)[withstood], after.outputs(test.x).argmax(1)[withstood])


def test_few_wrong_labels_cost_little_on_images() -> None:
    train, _, test = digit_sets(900)
    samples, _ = flipped(train, 0.1, 10)
    found = trained(partition_aggregation_training, samples, 10, partitions=9)
    assert accuracy(found, test) > 75
    assert found.ensemble.predict(test.x).median_radius(test.y) >= 1
    assert found.outputs(test.x).shape == (len(test), 10)


def test_the_seed_of_the_run_is_that_of_the_nets() -> None:
    samples = blobs(60)
    outputs = [trained(partition_aggregation_training, samples, 3, seed, partitions=5) for seed in (0, 0, 1)]
    scores = [one.ensemble.models.scores(samples.x) for one in outputs]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_no_hidden_layer_is_a_softmax_regression() -> None:
    found = trained(partition_aggregation_training, blobs(60), 3, partitions=4, hidden=[])
    x = torch.randn(2, 2)
    low, high, middle = (found.ensemble.models.scores(some) for some in (x[:1], x[1:], x.mean(0, keepdim=True)))
    torch.testing.assert_close(middle, (low + high) / 2)
    deeper = trained(partition_aggregation_training, blobs(60), 3, partitions=4).ensemble.models
    assert not torch.allclose(deeper.scores(x.mean(0, keepdim=True)), (deeper.scores(x[:1]) + deeper.scores(x[1:])) / 2)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(DataError, match="60 samples for 61 partitions"):
        trained(partition_aggregation_training, blobs(60), 3, partitions=61)
    for settings in ({"partitions": 0}, {"hidden": [0]}, {"vote": "most"}):
        with pytest.raises(SettingError):
            partition_aggregation_training(**settings)  # type: ignore[arg-type]
