"""scikit-learn estimators as models of data sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from taster import Batch
from taster.errors import ModelError
from taster.offline import EstimatorTraining, accuracy

G = torch.Generator().manual_seed(0)
Y = torch.arange(90) % 3
X = torch.rand(90, 1, 2, 3, generator=G) * 0.3 + torch.nn.functional.one_hot(Y, 6).reshape(90, 1, 2, 3) * 0.6
SAMPLES = Batch(X, Y)


@pytest.mark.parametrize(
    "make", [LogisticRegression, LinearSVC, GaussianNB, RidgeClassifier, lambda: KNeighborsClassifier(3)]
)
def test_scores_predict_what_the_estimator_does(make: type) -> None:
    model = EstimatorTraining(make, 4)(SAMPLES)
    outputs = model.outputs(X)
    assert outputs.shape == (90, 4)
    assert (outputs[:, 3] < -600).all()  # a class that was never seen
    predicted = model.estimator.predict(X.flatten(1).double().numpy())
    assert np.array_equal(outputs.argmax(1).numpy(), predicted)
    assert accuracy(model, SAMPLES) > 95


def test_the_loss_is_that_of_the_probabilities() -> None:
    model = EstimatorTraining(LogisticRegression, 3)(SAMPLES)
    by_hand = log_loss(Y.numpy(), model.estimator.predict_proba(X.flatten(1).double().numpy()))
    assert float(torch.nn.functional.cross_entropy(model.outputs(X), Y)) == pytest.approx(by_hand)


def test_two_classes_have_one_decision() -> None:
    two = SAMPLES.select(Y < 2)
    model = EstimatorTraining(LinearSVC, 2)(two)
    assert model.outputs(two.x).shape == (60, 2)
    assert accuracy(model, two) > 95


def test_weights_are_those_of_the_samples() -> None:
    weights = torch.ones(90)
    weights[::2] = 0
    found = EstimatorTraining(GaussianNB, 3)(SAMPLES, weights=weights).estimator
    by_hand = GaussianNB().fit(X[1::2].flatten(1).double().numpy(), Y[1::2].numpy())
    assert np.array_equal(found.theta_, by_hand.theta_)
    weights[1] = 5
    weighted = EstimatorTraining(GaussianNB, 3)(SAMPLES, weights=weights).estimator
    by_hand = GaussianNB().fit(X[1::2].flatten(1).double().numpy(), Y[1::2].numpy(), weights[1::2].double().numpy())
    assert np.array_equal(weighted.theta_, by_hand.theta_)
    with pytest.raises(ModelError, match="takes no weights"):
        EstimatorTraining(lambda: KNeighborsClassifier(3), 3)(SAMPLES, weights=weights)


def test_an_estimator_that_cannot_be_fitted_is_told() -> None:
    with pytest.raises(ModelError, match="LinearSVC cannot be fitted"):
        EstimatorTraining(LinearSVC, 3)(SAMPLES.select(Y == 1))


def test_the_seed_decides() -> None:
    def scores(seed: int) -> torch.Tensor:
        return EstimatorTraining(lambda: RandomForestClassifier(5), 3, seed)(SAMPLES).outputs(X)

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))


def test_votes_of_pairs_are_no_scores_of_classes() -> None:
    four = Batch(torch.cat([X, X[:30] + 2]), torch.cat([Y, torch.full((30,), 3)]))
    model = EstimatorTraining(lambda: SVC(decision_function_shape="ovo"), 4)(four)
    assert accuracy(model, four) > 95


def test_the_seed_decides_in_a_pipeline_too() -> None:
    def scores() -> torch.Tensor:
        forest = EstimatorTraining(lambda: make_pipeline(StandardScaler(), RandomForestClassifier(3, max_depth=2)), 3)
        return forest(SAMPLES).outputs(X)

    assert torch.equal(scores(), scores())


def test_what_is_no_classifier_is_told() -> None:
    with pytest.raises(ModelError, match="LinearRegression, which has no classes_"):
        EstimatorTraining(LinearRegression, 3)(SAMPLES)
    with pytest.raises(ModelError, match="cannot predict"):
        EstimatorTraining(lambda: RadiusNeighborsClassifier(1e-9), 3)(SAMPLES).outputs(X + 1)
