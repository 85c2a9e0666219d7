"""The guard around scikit-learn's `partial_fit`."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier, is_regressor
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

import taster
from taster import Action
from taster.errors import BatchError, LabelError, ModelError, SettingError
from taster.integrations.sklearn import GuardedEstimator

CLASSES = np.arange(10)


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order] / 16, y[order]


X, Y = digits()
TRUSTED = X[:400], Y[:400]
TEST = X[400:700], Y[400:700]
FIRST = X[700:900], Y[700:900]


def stream(poisoned: bool = False, size: int = 25) -> list[tuple[np.ndarray, np.ndarray]]:
    batches = [(X[i : i + size], Y[i : i + size]) for i in range(900, 1775, size)]
    count = len(batches)
    return [
        (x, (y + 1) % 10) if poisoned and count * 2 // 5 <= i < count * 4 // 5 else (x, y)
        for i, (x, y) in enumerate(batches)
    ]


def fitted(estimator: Any) -> Any:
    return clone(estimator).fit(*FIRST)


def state(estimator: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(estimator).items() if isinstance(value, (np.ndarray, float, int))}


def assert_same(one: Any, other: Any) -> None:
    assert state(one).keys() == state(other).keys()
    for name, value in state(one).items():
        np.testing.assert_array_equal(value, state(other)[name], err_msg=name)


def sgd(**options: Any) -> SGDClassifier:
    return SGDClassifier(loss="log_loss", average=True, random_state=0, **options)


class Scripted(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that is right on the share of samples that its last batch names."""

    def partial_fit(self, X: np.ndarray, y: np.ndarray, classes: Any = None) -> Scripted:  # noqa: N803
        self.classes_ = np.arange(2)
        self.share_ = float(X[0, 0])
        self.learned_ = [*getattr(self, "learned_", []), self.share_]
        if y[0] == 9:
            raise RuntimeError("boom")
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        if not hasattr(self, "share_"):
            raise NotFittedError("not yet")
        if self.share_ < 0:
            raise ValueError("a share below 0")
        right = X[:, 0] < self.share_
        return np.where(right, X[:, 1], 1 - X[:, 1]).astype(int)


def scripted(**options: Any) -> Any:
    place = np.arange(400) / 400
    labels = np.arange(400) % 2
    return taster.guarded(Scripted(), np.stack([place, labels], 1), labels, class_tolerance=None, **options)


def teach(model: Any, *shares: float) -> None:
    for share in shares:
        model.partial_fit(np.array([[share, 0.0]]), [0], classes=[0, 1])


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianNB(var_smoothing=1e-2),
        MultinomialNB(),
        MLPClassifier((32,), random_state=0),
        fitted(sgd()),
    ],
    ids=["GaussianNB", "MultinomialNB", "MLPClassifier", "SGDClassifier"],
)
def test_honest_streams_lose_nothing(estimator: Any) -> None:
    guarded, plain = taster.guarded(estimator, *TRUSTED), copy.deepcopy(estimator)
    for x, y in stream():
        guarded.partial_fit(x, y, classes=CLASSES)
        plain.partial_fit(x, y, classes=CLASSES)
    assert guarded.counters["committed"] == guarded.counters["steps"] == len(stream())
    assert guarded.counters["samples"] == 875
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(guarded.predict_proba(TEST[0]), plain.predict_proba(TEST[0]))
    assert_same(guarded.estimator_, plain)


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianNB(var_smoothing=1e-2),
        SGDClassifier(random_state=0),
        SGDClassifier(loss="log_loss", random_state=0),
        MLPClassifier((32,), random_state=0, max_iter=400, learning_rate_init=0.01),
    ],
    ids=["GaussianNB", "hinge", "log_loss", "MLPClassifier"],
)
def test_poison_is_refused_and_accuracy_held(estimator: Any) -> None:
    estimator = fitted(estimator)
    guarded, plain = taster.guarded(estimator, *TRUSTED), copy.deepcopy(estimator)
    poisoned = stream(poisoned=True)
    for x, y in poisoned:
        guarded.partial_fit(x, y)
        plain.partial_fit(x, y)
    assert guarded.counters["rejected"] + guarded.counters["rewound"] >= 5
    held, lost = guarded.score(*TEST), plain.score(*TEST)
    assert held > lost + 0.05
    assert held > estimator.score(*TEST) - 0.05
    assert plain.score(*TEST) < fitted(estimator).score(*TEST)


def test_regression_holds_explained_variance() -> None:
    x, y = make_regression(1200, 8, noise=5.0, random_state=0)
    estimator = SGDRegressor(random_state=0, eta0=0.01)
    guarded, plain, spared = taster.guarded(estimator, x[:400], y[:400]), clone(estimator), clone(estimator)
    for start in range(600, 1200, 20):
        part, poisoned = slice(start, start + 20), 800 <= start < 1000
        targets = -3 * y[part] if poisoned else y[part]
        guarded.partial_fit(x[part], targets)
        plain.partial_fit(x[part], targets)
        if not poisoned:
            spared.partial_fit(x[part], targets)
    assert is_regressor(guarded)
    assert [record.step for record in guarded.records if not record.verdict.committed] == list(range(10, 20))
    assert "explained variance" in guarded.records[10].verdict.reason
    assert_same(guarded.estimator_, spared)  # the honest batches, and nothing else
    assert guarded.score(x[400:600], y[400:600]) > plain.score(x[400:600], y[400:600]) + 0.2


def test_a_refused_batch_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    refused: list[Any] = []
    estimator = fitted(SGDClassifier(loss="log_loss", random_state=0))
    guarded = taster.guarded(estimator, *TRUSTED, on_refusal=lambda record, batch: refused.append((record, batch)))
    x, y = X[900:1000], (Y[900:1000] + 1) % 10
    with caplog.at_level(logging.WARNING):
        assert guarded.partial_fit(x, y) is guarded
    record = guarded.last_record
    assert record.verdict.action is Action.REJECT
    assert record.verdict.stage == "probe_gate"
    assert record.samples == 100
    assert guarded.records == [record]
    assert_same(guarded.estimator_, estimator)
    for name in ("coef_", "intercept_", "t_"):
        np.testing.assert_array_equal(getattr(guarded, name), getattr(estimator, name))
    ((told, (x_told, y_told)),) = refused
    assert told is record
    assert x_told is x
    assert y_told is y
    (said,) = [r for r in caplog.records if r.name == "taster.core.learner"]
    first, _, what_to_do = said.getMessage().partition("; ")
    assert first == f"step 0: rejected by probe_gate: {record.verdict.reason}"
    assert "further refusals of this cause are logged at level INFO. Look at what was refused" in what_to_do


def test_after_a_refusal_learning_goes_on_as_if_the_batch_had_not_come() -> None:
    estimator = fitted(GaussianNB(var_smoothing=1e-2))
    guarded, plain = taster.guarded(estimator, *TRUSTED), copy.deepcopy(estimator)
    honest = stream(size=125)
    for x, y in honest[:3]:
        guarded.partial_fit(x, y)
        guarded.partial_fit(np.concatenate([x] * 8), np.concatenate([(y + 1) % 10] * 8))
        assert not guarded.last_record.verdict.committed
        plain.partial_fit(x, y)
    assert guarded.counters["committed"] == 3
    assert_same(guarded.estimator_, plain)


def test_the_given_estimator_and_other_peoples_copies_do_not_change() -> None:
    estimator = fitted(sgd())
    before = copy.deepcopy(estimator)
    guarded = taster.guarded(estimator, *TRUSTED)
    for x, y in stream()[:3]:
        guarded.partial_fit(x, y)
    assert_same(estimator, before)
    assert guarded.t_ > estimator.t_


def test_every_checks_after_so_many_calls_and_undoes_them_all() -> None:
    refused: list[Any] = []
    model = scripted(every=3, on_refusal=lambda record, batch: refused.append(batch[0][0, 0]))
    teach(model, 0.9)  # had learned nothing: checked at once
    assert model.counters["steps"] == 1
    teach(model, 0.9, 0.9)
    assert model.counters["steps"] == 1
    teach(model, 0.9)
    assert model.counters == {**model.counters, "steps": 2, "committed": 2}
    before = list(model.learned_)
    teach(model, 0.5, 0.4)
    assert model.learned_[-2:] == [0.5, 0.4]
    teach(model, 0.3)
    assert vars(model.estimator_)["learned_"] == before
    assert refused == [0.5, 0.4, 0.3]
    teach(model, 0.2)
    assert model.check().verdict.action is Action.REJECT
    assert model.check() is None
    assert vars(model.estimator_)["learned_"] == before
    teach(model, 0.9, 0.9)
    assert model.counters["steps"] == 4  # the check began a new interval
    teach(model, 0.9)
    assert model.counters["steps"] == 5


@pytest.mark.parametrize("every", [1, 2])
def test_a_slow_drift_is_rewound(every: int, caplog: pytest.LogCaptureFixture) -> None:
    model = scripted(every=every)
    teach(model, 0.9)
    drift = [0.9, 0.9, 0.9, 0.896, 0.8925, 0.889, 0.886, 0.8825, 0.879, 0.876, 0.8725, 0.869, 0.866]
    with caplog.at_level(logging.WARNING):
        for share in drift:
            teach(model, *[share] * every)
            if not model.last_record.verdict.committed:
                break
    record = model.last_record
    assert record.verdict.action is Action.REWIND
    assert 1 < record.verdict.steps <= 8
    assert "against the anchor" in record.verdict.reason
    assert model.share_ >= 0.895  # at most half the tolerance lost
    assert len(model.learned_) == 1 + every * (record.step - record.verdict.steps - 1)
    assert "rewound by probe_gate" in caplog.text
    assert model.counters["rewound"] == 1
    teach(model, *[0.9] * every)
    assert model.last_record.verdict.committed


def test_without_rewind_the_last_step_alone_is_undone() -> None:
    model = scripted(max_rewind=0)
    teach(model, 0.9, *[0.9 - 0.003 * i for i in range(12)])
    assert model.counters["rewound"] == 0
    assert model.counters["rejected"] >= 1


def test_the_first_refusal_says_what_else_may_be_wrong_with_an_estimator(caplog: pytest.LogCaptureFixture) -> None:
    model = scripted()
    with caplog.at_level(logging.WARNING):
        teach(model, 0.9, *[0.5] * 10)
    first, tenth = (record.getMessage() for record in caplog.records)
    assert "SGDClassifier(average=True)" in first
    assert "momentum" not in first
    assert "refused 10 of 10 steps" in tenth


def test_the_tolerance_is_the_tests() -> None:
    for tolerance, committed in ((1.0, False), (30.0, True)):
        model = scripted(tolerance=tolerance)
        teach(model, 0.9, 0.8)
        assert model.last_record.verdict.committed is committed


@pytest.mark.parametrize("every", [1, 4])
def test_an_exception_leaves_everything_as_it_was(every: int) -> None:
    model = scripted(every=every)
    teach(model, 0.9, 0.91)
    before, records = list(model.learned_), model.records
    with pytest.raises(RuntimeError, match="boom"):
        model.partial_fit(np.array([[0.1, 0.0]]), [9])
    assert model.learned_ == before
    assert model.records == records
    teach(model, 0.91, 0.91, 0.91)
    assert vars(model.estimator_)["learned_"] == [0.9, *[0.91] * 4]
    assert model.counters["steps"] == (5 if every == 1 else 2)


def test_an_estimator_that_raises_when_measured_is_as_before_the_call() -> None:
    model = scripted()
    teach(model, 0.9)
    before = list(model.learned_)
    with pytest.raises(ModelError, match="cannot predict the trusted samples"):
        teach(model, -1.0)
    assert model.learned_ == before
    teach(model, 0.9)
    assert model.counters["committed"] == 2


def test_the_first_call_of_an_estimator_that_has_learned_nothing() -> None:
    guarded = taster.guarded(GaussianNB(var_smoothing=1e-2), *TRUSTED)
    assert not guarded.__sklearn_is_fitted__()
    with pytest.raises(LabelError, match="not among the classes"):
        guarded.partial_fit(X[900:1000], Y[900:1000] % 5, classes=np.arange(5))
    with pytest.raises(ValueError, match="classes must be passed"):
        guarded.partial_fit(X[900:1000], Y[900:1000])
    with pytest.raises(NotFittedError):
        guarded.predict(X)
    assert guarded.counters["steps"] == 0
    guarded.partial_fit(X[900:1000], Y[900:1000], classes=CLASSES)
    assert guarded.counters["committed"] == 1
    check_is_fitted(guarded)


def test_labels_of_any_kind() -> None:
    names = np.array([f"digit {n}" for n in range(10)])
    guarded = taster.guarded(GaussianNB(var_smoothing=1e-2), TRUSTED[0], names[TRUSTED[1]])
    for x, y in stream(size=125):
        guarded.partial_fit(x, names[y], classes=names)
    assert guarded.counters["committed"] == 7
    guarded.partial_fit(np.concatenate([X[900:1775]] * 3), names[(np.concatenate([Y[900:1775]] * 3) + 1) % 10])
    assert guarded.counters["rejected"] == 1
    assert guarded.score(TEST[0], names[TEST[1]]) > 0.85


def test_sparse_samples_and_weights() -> None:
    estimator = fitted(sgd())
    guarded, plain = taster.guarded(estimator, sparse.csr_matrix(TRUSTED[0]), TRUSTED[1]), copy.deepcopy(estimator)
    for model in (guarded, plain):
        model.partial_fit(sparse.csr_matrix(X[900:1000]), Y[900:1000], sample_weight=np.linspace(0, 1, 100))
    assert_same(guarded.estimator_, plain)
    assert guarded.counters["committed"] == 1


def test_a_classifier_without_probabilities() -> None:
    estimator = fitted(SGDClassifier(random_state=0))
    guarded = taster.guarded(estimator, *TRUSTED)
    assert not hasattr(guarded, "predict_proba")
    assert guarded.decision_function(TEST[0]).shape == (300, 10)


def test_it_is_an_estimator() -> None:
    guarded = taster.guarded(sgd(), *TRUSTED, every=2)
    assert is_classifier(guarded)
    assert not is_regressor(guarded)
    assert guarded.get_params()["every"] == 2
    assert guarded.get_params()["estimator__average"] is True
    twin = clone(guarded)
    assert twin.estimator is not guarded.estimator
    assert twin.get_params(deep=False).keys() == guarded.get_params(deep=False).keys()
    assert twin.records == []
    assert twin.last_record is None
    guarded.partial_fit(*FIRST, classes=CLASSES)
    assert clone(guarded).counters["steps"] == 0
    assert "SGDClassifier" in repr(guarded)
    assert not hasattr(guarded, "no_such_thing")
    guarded.partial_fit(X[900:950], Y[900:950])  # half of an interval
    for copied in (copy.deepcopy(guarded), pickle.loads(pickle.dumps(guarded))):
        copied.partial_fit(X[950:1000], Y[950:1000])
        assert copied.counters["steps"] == 2
        assert guarded.counters["steps"] == 1
        assert copied.t_ == guarded.t_ + 50


def test_set_params_reaches_the_estimator_that_learns() -> None:
    guarded = taster.guarded(sgd(), *TRUSTED)
    guarded.partial_fit(*FIRST, classes=CLASSES)
    before = guarded.coef_.copy()
    assert guarded.set_params(estimator__alpha=0.5, tolerance=3.0) is guarded
    assert guarded.estimator_.alpha == guarded.estimator.alpha == 0.5
    assert guarded.tolerance == 3.0
    np.testing.assert_array_equal(guarded.coef_, before)
    guarded.partial_fit(X[900:1000], Y[900:1000])
    assert guarded.counters["steps"] == 1
    guarded.set_params(estimator=GaussianNB())
    assert isinstance(guarded.estimator_, GaussianNB)
    with pytest.raises(NotFittedError):
        guarded.predict(X)
    guarded.set_params(every=0)
    with pytest.raises(SettingError, match="every"):
        guarded.partial_fit(*FIRST, classes=CLASSES)


def test_fit_is_plain_and_the_guard_begins_anew() -> None:
    guarded = taster.guarded(sgd(), *TRUSTED)
    guarded.partial_fit(*FIRST, classes=CLASSES)
    assert guarded.fit(*FIRST) is guarded
    assert_same(guarded.estimator_, fitted(sgd()))
    assert guarded.counters["steps"] == 0
    x, y = np.concatenate([X[900:]] * 20), np.concatenate([(Y[900:] + 1) % 10] * 20)
    guarded.partial_fit(x, y)
    assert guarded.counters["rejected"] == 1
    assert_same(guarded.estimator_, fitted(sgd()))


def test_as_the_last_step_of_a_pipeline_and_in_cross_validation() -> None:
    scaler = StandardScaler().fit(FIRST[0])
    guarded = taster.guarded(sgd(), scaler.transform(TRUSTED[0]), TRUSTED[1])
    pipeline = make_pipeline(StandardScaler(), guarded).fit(*FIRST)
    pipeline[-1].partial_fit(pipeline[:-1].transform(X[900:1000]), Y[900:1000])
    assert pipeline.score(*TEST) > 0.8
    assert pipeline[-1].counters["steps"] == 1
    scores = cross_val_score(taster.guarded(sgd(), *TRUSTED), *FIRST, cv=2)
    assert scores.min() > 0.7


def test_around_a_pipeline_the_last_step_learns() -> None:
    start = Pipeline([("scale", StandardScaler()), ("learn", sgd())]).fit(*FIRST)
    guarded, plain = taster.guarded(start, *TRUSTED), copy.deepcopy(start)
    for x, y in stream(size=125)[:3]:
        guarded.partial_fit(x, y)
        plain[-1].partial_fit(plain[:-1].transform(x), y)
    assert guarded.counters["committed"] == 3
    assert_same(guarded.estimator_[-1], plain[-1])
    np.testing.assert_array_equal(guarded.predict_proba(TEST[0]), plain.predict_proba(TEST[0]))
    unfitted = taster.guarded(make_pipeline(FunctionTransformer(np.sqrt), GaussianNB(var_smoothing=1e-2)), *TRUSTED)
    unfitted.partial_fit(*FIRST, classes=CLASSES)
    assert unfitted.score(*TEST) > 0.7


def test_feature_names_are_kept() -> None:
    pandas = pytest.importorskip("pandas")
    names = [f"pixel {n}" for n in range(64)]

    def frame(x: np.ndarray) -> Any:
        return pandas.DataFrame(x, columns=names)

    guarded = taster.guarded(GaussianNB(var_smoothing=1e-2), frame(TRUSTED[0]), pandas.Series(TRUSTED[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guarded.partial_fit(frame(FIRST[0]), FIRST[1], classes=CLASSES)
        guarded.partial_fit(frame(X[900:1000]), Y[900:1000])
    assert list(guarded.feature_names_in_) == names


@pytest.mark.parametrize(
    ("error", "said", "estimator", "x", "y", "options"),
    [
        (ModelError, "no partial_fit", LogisticRegression(), *TRUSTED, {}),
        (ModelError, "no partial_fit", make_pipeline(StandardScaler(), LogisticRegression()), *TRUSTED, {}),
        (ModelError, "neither a classifier nor a regressor", MiniBatchKMeans(), *TRUSTED, {}),
        (ModelError, "wanted an estimator with partial_fit", SGDClassifier, *TRUSTED, {}),
        (ModelError, "wanted an estimator with partial_fit", object(), *TRUSTED, {}),
        (ModelError, "got task 'ranking'", sgd(), *TRUSTED, {"task": "ranking"}),
        (BatchError, "NaN", sgd(), np.where(X[:400] > 0.9, np.nan, X[:400]), TRUSTED[1], {}),
        (BatchError, "400 trusted samples and 399 labels", sgd(), X[:400], Y[:399], {}),
        (BatchError, "1 trusted samples", sgd(), X[:1], Y[:1], {}),
        (BatchError, "float as trusted samples", sgd(), 1.0, Y[:1], {}),
        (LabelError, "nan as trusted label 0", sgd(), X[:2], [float("nan"), 1.0], {}),
        (LabelError, "one class a sample", sgd(), X[:400], np.eye(10)[Y[:400]], {}),
        (LabelError, "no numbers", SGDRegressor(), X[:2], ["one", "two"], {}),
        (LabelError, "NaN or infinity", SGDRegressor(), X[:2], [1.0, np.inf], {}),
        (LabelError, "all the same", SGDRegressor(), X[:2], [1.0, 1.0], {}),
        (LabelError, "has no class for", fitted(sgd()), X[:400], Y[:400] + 5, {}),
        (ModelError, "cannot predict the trusted samples", fitted(sgd()), X[:400, :60], Y[:400], {}),
        (SettingError, "every", sgd(), *TRUSTED, {"every": 0}),
        (SettingError, "tolerance", sgd(), *TRUSTED, {"tolerance": -1.0}),
        (SettingError, "alpha", sgd(), *TRUSTED, {"alpha": 1.0}),
        (SettingError, "max_rewind", sgd(), *TRUSTED, {"max_rewind": -1}),
    ],
)
def test_what_does_not_fit_is_said_at_once(
    error: type[Exception], said: str, estimator: Any, x: Any, y: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=said):
        taster.guarded(estimator, x, y, **options)


def test_batches_that_do_not_fit_change_nothing() -> None:
    guarded = taster.guarded(fitted(sgd()), *TRUSTED)
    before = copy.deepcopy(guarded.estimator_)
    for error, x, y in (
        (BatchError, X[:10], Y[:9]),
        (ValueError, X[:10, :60], Y[:10]),
        (ValueError, np.full((10, 64), np.nan), Y[:10]),
    ):
        with pytest.raises(error):
            guarded.partial_fit(x, y)
        assert_same(guarded.estimator_, before)
    assert guarded.counters["steps"] == 0
    new = taster.guarded(sgd(), *TRUSTED)
    with pytest.raises(BatchError, match="60 features, the trusted ones have 64"):
        new.partial_fit(X[:10, :60], Y[:10], classes=CLASSES)
    assert not hasattr(new, "coef_")


@pytest.mark.parametrize("estimator", [GaussianNB(), SGDRegressor(random_state=0)], ids=["classifier", "regressor"])
def test_scikit_learns_own_checks(estimator: Any) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3 if is_classifier(estimator) else rng.normal(size=60)
    guarded = GuardedEstimator(estimator, rng.normal(size=(60, 4)), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(guarded, on_fail=None)
    # They change the number of features, or have another than the trusted samples.
    other_features = {"check_fit_score_takes_y", "check_estimators_partial_fit_n_features"}
    failed = {found["check_name"]: found["exception"] for found in results if found["status"] == "failed"}
    assert failed.keys() <= other_features, failed
    assert sum(found["status"] == "passed" for found in results) > 30


def test_an_estimator_that_becomes_nan_is_refused() -> None:
    x, y = make_regression(300, 4, random_state=0)
    guarded = taster.guarded(SGDRegressor(random_state=0), x[:100], y[:100])
    guarded.partial_fit(x[100:200], y[100:200])
    guarded._guard.learn(lambda estimator: estimator.__dict__.update(coef_=estimator.coef_ * np.nan), (x, y), 1)
    assert "NaN or infinite" in guarded.last_record.verdict.reason
    assert np.isfinite(guarded.coef_).all()


def test_a_small_probe_causes_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        taster.guarded(sgd(), X[:20], Y[:20])
    assert "a probe of 20 samples" in caplog.text
