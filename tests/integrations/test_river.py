"""The guard around river's models."""

from __future__ import annotations

import copy
import logging
import pickle
import random
import sys
from typing import Any

import pytest

import taster
from taster import Action
from taster.errors import BatchError, ExtraError, LabelError, ModelError, SettingError

river = pytest.importorskip("river", reason="needs the extra: pip install taster[river]")
pandas = pytest.importorskip("pandas")
from river import base, compose, evaluate, linear_model, metrics, optim, preprocessing, stats, tree  # noqa: E402

from taster.integrations.river import GuardedClassifier, GuardedRegressor  # noqa: E402

Pair = tuple[dict[str, float], Any]


def samples(count: int, seed: int, flipped: bool = False) -> list[Pair]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        x = {name: rng.gauss(3.0, 2.0) for name in "abc"}
        y = x["a"] + 2 * x["b"] - x["c"] + rng.gauss(0, 1) > 6
        found.append((x, (not y) if flipped else y))
    return found


TRUSTED, TEST = samples(300, 0), samples(400, 1)
HONEST, FLIPPED = samples(1000, 2), samples(500, 3, flipped=True)


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(0.05))


def accuracy(model: Any) -> float:
    return sum(model.predict_one(x) == y for x, y in TEST) / len(TEST)


def learn(model: Any, stream: list[Pair]) -> Any:
    for x, y in stream:
        model.learn_one(x, y)
    return model


def same(one: Any, other: Any) -> bool:
    probabilities = [[model.predict_proba_one(x) for x, _ in TEST] for model in (one, other)]
    return probabilities[0] == probabilities[1]


class Scripted(base.Classifier):
    """A classifier that is right on the share of samples that it was taught last; it has no probabilities."""

    def __init__(self) -> None:
        self.share = 0.9
        self.learned: list[float] = []

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.share = x["share"]
        self.learned.append(self.share)
        if y == "boom":
            raise RuntimeError("boom")

    def predict_one(self, x: dict[str, Any], **kwargs: Any) -> Any:
        if self.share < 0:
            raise ValueError("a share below 0")
        return x["place"] < self.share


def scripted(**options: Any) -> Any:
    trusted = [({"place": n / 400}, True) for n in range(400)]
    return taster.guarded(Scripted(), trusted, class_tolerance=None, **{"every": 1, **options})


def teach(model: Any, *shares: float) -> None:
    for share in shares:
        model.learn_one({"share": share}, True)


def test_without_river_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.delitem(sys.modules, "taster.integrations.river")
    with pytest.raises(ExtraError, match=r"taster\[river\]"):
        taster.guarded(Scripted(), TRUSTED)


def test_a_passive_aggressive_classifier() -> None:
    model = preprocessing.StandardScaler() | linear_model.PAClassifier(C=0.01)
    guarded = learn(taster.guarded(model, TRUSTED), HONEST[:500] + FLIPPED + HONEST[500:])
    assert [r.step for r in guarded.records if not r.verdict.committed] == [5, 6, 7, 8, 9]
    spared = learn(model, HONEST)
    assert [guarded.predict_one(x) for x, _ in TEST] == [spared.predict_one(x) for x, _ in TEST]


def test_a_classifier_without_probabilities() -> None:
    model = scripted()
    teach(model, 0.9, 0.5)
    assert "accuracy on the probe" in model.last_record.verdict.reason
    with pytest.raises(NotImplementedError):
        model.predict_proba_one({"place": 0.0})


def test_honest_streams_lose_nothing() -> None:
    guarded, plain = learn(taster.guarded(logistic(), TRUSTED), HONEST), learn(logistic(), HONEST)
    assert isinstance(guarded, GuardedClassifier)
    assert guarded.counters == {**guarded.counters, "steps": 10, "committed": 10, "samples": 1000}
    assert same(guarded, plain)
    assert guarded.learned["LogisticRegression"].weights == plain["LogisticRegression"].weights


def test_poison_is_refused_bit_for_bit() -> None:
    stream = HONEST[:500] + FLIPPED + HONEST[500:]
    guarded, plain = learn(taster.guarded(logistic(), TRUSTED), stream), logistic()
    spared = learn(logistic(), HONEST)
    assert [r.step for r in guarded.records if not r.verdict.committed] == [5, 6, 7, 8, 9]
    assert same(guarded, spared)  # scaler's statistics included
    learn(plain, HONEST[:500] + FLIPPED)
    assert accuracy(guarded) > accuracy(plain) + 0.1


def test_a_tree_is_held_against_its_unguarded_twin() -> None:
    model = learn(tree.HoeffdingTreeClassifier(grace_period=50), HONEST)
    stream = samples(1200, 4, flipped=True)
    guarded, plain = learn(taster.guarded(model, TRUSTED), stream), learn(copy.deepcopy(model), stream)
    assert accuracy(guarded) > accuracy(model) - 0.03
    assert accuracy(guarded) > accuracy(plain) + 0.1
    assert guarded.counters["committed"] < guarded.counters["steps"]
    honest = learn(taster.guarded(tree.HoeffdingTreeClassifier(grace_period=50), TRUSTED), HONEST)
    assert accuracy(honest) > accuracy(model) - 0.05


def test_regression_holds_explained_variance() -> None:
    def targets(pairs: list[Pair], factor: float = 1.0) -> list[Pair]:
        return [(x, factor * (x["a"] + 2 * x["b"])) for x, _ in pairs]

    model = preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(0.02))
    guarded = taster.guarded(model, targets(TRUSTED))
    assert isinstance(guarded, GuardedRegressor)
    stream = targets(HONEST[:500]) + targets(HONEST[500:], -2.0)
    plain = copy.deepcopy(model)
    learn(guarded, stream)
    learn(plain, stream)
    assert [record.verdict.committed for record in guarded.records] == [True] * 5 + [False] * 5
    assert "explained variance" in guarded.last_record.verdict.reason
    learn(model, stream[:500])
    assert [guarded.predict_one(x) for x, _ in TEST] == [model.predict_one(x) for x, _ in TEST]
    assert plain.predict_one(TEST[0][0]) != guarded.predict_one(TEST[0][0])


def test_a_refusal_undoes_what_came_since_the_last_check(caplog: pytest.LogCaptureFixture) -> None:
    refused: list[Any] = []
    model = scripted(every=3, on_refusal=lambda record, sample: refused.append((record, sample)))
    teach(model, 0.9, 0.9, 0.9, 0.5, 0.4)
    assert model.learned.share == 0.4
    with caplog.at_level(logging.WARNING):
        teach(model, 0.3)
    assert model.learned.learned == [0.9] * 3
    assert [sample for _, sample in refused] == [({"share": share}, True) for share in (0.5, 0.4, 0.3)]
    record = model.last_record
    assert all(told is record for told, _ in refused)
    assert record.verdict.action is Action.REJECT
    assert record.samples == 3
    assert f"step 1: rejected by probe_gate: {record.verdict.reason}" in caplog.text
    teach(model, 0.2)
    assert model.check().samples == 1
    assert model.check() is None
    assert model.learned.learned == [0.9] * 3
    teach(model, 0.9, 0.9)
    assert model.counters["steps"] == 3


def test_a_slow_drift_is_rewound() -> None:
    model = scripted(every=2)
    for share in (0.9, 0.9, 0.896, 0.8925, 0.889, 0.886, 0.8825, 0.879, 0.876, 0.8725, 0.869, 0.866):
        teach(model, share, share)
        if not model.last_record.verdict.committed:
            break
    verdict = model.last_record.verdict
    assert verdict.action is Action.REWIND
    assert 1 < verdict.steps <= 8
    assert model.learned.share >= 0.895
    assert len(model.learned.learned) == 2 * (model.last_record.step - verdict.steps)
    teach(model, 0.9, 0.9)
    assert model.last_record.verdict.committed


def test_an_exception_undoes_its_call_alone() -> None:
    model = scripted(every=4)
    teach(model, 0.9, 0.91)
    with pytest.raises(RuntimeError, match="boom"):
        model.learn_one({"share": 0.1}, "boom")
    assert model.learned.learned == [0.9, 0.91]
    teach(model, 0.9)
    with pytest.raises(ModelError, match="cannot predict the trusted samples"):
        teach(model, -1.0)
    assert model.learned.learned == [0.9, 0.91, 0.9]
    assert model.counters["steps"] == 0
    teach(model, 0.92)
    assert model.counters == {**model.counters, "steps": 1, "samples": 4, "committed": 1}
    assert model.learned.learned == [0.9, 0.91, 0.9, 0.92]


def test_samples_that_the_caller_changes_later_are_learned_again_as_they_were() -> None:
    model = scripted(every=4)
    x = {"share": 0.9}
    model.learn_one(x, True)
    x["share"] = 0.2
    with pytest.raises(RuntimeError, match="boom"):
        model.learn_one({"share": 0.1}, "boom")
    assert model.learned.learned == [0.9]


def test_batches_count_by_their_samples() -> None:
    frame = pandas.DataFrame([x for x, _ in HONEST])
    labels = pandas.Series([y for _, y in HONEST])
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(2.0))
    guarded, plain = taster.guarded(model, TRUSTED), copy.deepcopy(model)
    for start in range(0, 1000, 50):
        part = slice(start, start + 50)
        guarded.learn_many(frame[part], labels[part])
        plain.learn_many(frame[part], labels[part])
    assert guarded.counters == {**guarded.counters, "steps": 10, "committed": 10, "samples": 1000}
    assert same(guarded, plain)
    pandas.testing.assert_frame_equal(guarded.predict_proba_many(frame), plain.predict_proba_many(frame))
    guarded.learn_many(frame[:0], labels[:0])
    for start in range(0, 1000, 50):
        guarded.learn_many(frame[start : start + 50], ~labels[start : start + 50])
    assert guarded.counters == {**guarded.counters, "committed": 10, "rejected": 10}
    assert same(guarded, plain)
    with pytest.raises(BatchError, match="1000 samples and 999 labels"):
        guarded.learn_many(frame, labels[1:])
    with pytest.raises(ModelError, match="no learn_many"):
        taster.guarded(tree.HoeffdingTreeClassifier(), TRUSTED).learn_many(frame, labels)


def test_it_is_a_model_of_rivers() -> None:
    model = taster.guarded(logistic(), TRUSTED, every=50, tolerance=2.0)
    assert isinstance(model, base.Classifier)
    score = evaluate.progressive_val_score(HONEST, model, metrics.Accuracy())
    assert score.get() > 0.8
    assert model.counters["steps"] == 20
    assert "LogisticRegression" in repr(model)
    assert "LogisticRegression" in str(model)
    twin = model.clone()
    assert (twin.every, twin.tolerance, twin.counters["steps"]) == (50, 2.0, 0)
    assert same(twin, logistic())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(copied, model)
        assert copied.counters == model.counters
    assert not hasattr(model, "no_such_thing")


def test_as_the_last_step_of_a_pipeline() -> None:
    scaler = preprocessing.StandardScaler()
    for x, _ in TRUSTED:
        scaler.learn_one(x)
    scaled = [(scaler.transform_one(x), y) for x, y in TRUSTED]
    inner = linear_model.LogisticRegression(optimizer=optim.SGD(0.05))
    pipeline = preprocessing.StandardScaler() | taster.guarded(inner, scaled)
    assert isinstance(pipeline, compose.Pipeline)
    learn(pipeline, HONEST)
    assert pipeline["GuardedClassifier"].counters["steps"] == 10
    assert accuracy(pipeline) > 0.85


def test_models_that_learn_while_they_predict_learn_nothing_from_trusted_samples() -> None:
    class Counting(Scripted):
        def predict_one(self, x: dict[str, Any], **kwargs: Any) -> Any:
            self.asked = getattr(self, "asked", 0) + 1
            return super().predict_one(x)

    model = taster.guarded(Counting(), [({"place": n / 50}, n % 2 == 0) for n in range(50)], every=1)
    teach(model, 0.9, 0.9)
    assert not hasattr(model.learned, "asked")


def test_what_a_model_predicts_that_has_learned_nothing_is_not_defended() -> None:
    # At first it predicts one class for all, and is always right there: every honest step would cost that class.
    guarded = taster.guarded(logistic(), TRUSTED, every=20)
    assert len({guarded.predict_one(x) for x, _ in TEST}) == 1
    learn(guarded, HONEST[:20])
    assert guarded.counters["committed"] == 1
    assert len({guarded.predict_one(x) for x, _ in TEST}) == 2
    learned = taster.guarded(learn(logistic(), HONEST), TRUSTED, every=500)
    learn(learned, FLIPPED)
    assert learned.counters["rejected"] == 1  # of a model that has learned the first step is judged too


def test_trusted_data_of_any_form() -> None:
    xs, ys = [x for x, _ in TRUSTED], [y for _, y in TRUSTED]
    for trusted in (
        (iter(TRUSTED),),
        (xs, ys),
        (pandas.DataFrame(xs), pandas.Series(ys)),
    ):
        model = taster.guarded(logistic(), *trusted)
        assert model.X_trusted == xs
        assert model.y_trusted == ys


def test_the_given_model_does_not_change() -> None:
    model = logistic()
    learn(taster.guarded(model, TRUSTED), HONEST[:200])
    assert same(model, logistic())


@pytest.mark.parametrize(
    ("error", "said", "model", "trusted", "options"),
    [
        (ModelError, "wanted an estimator with partial_fit", stats.Mean(), (TRUSTED,), {}),
        (ModelError, "neither a classifier nor a regressor", preprocessing.StandardScaler(), (TRUSTED,), {}),
        (
            ModelError,
            "no learn_one and predict_one",
            preprocessing.StandardScaler(),
            (TRUSTED,),
            {"task": "regression"},
        ),
        (BatchError, "no pairs", logistic(), ([x for x, _ in TRUSTED],), {}),
        (BatchError, "no pairs", logistic(), (3,), {}),
        (BatchError, "2 trusted samples and 1 labels", logistic(), ([{}, {}], [True]), {}),
        (BatchError, "list as trusted sample 0", logistic(), ([[1.0], [2.0]], [True, False]), {}),
        (BatchError, "nan as 'a' of trusted sample 1", logistic(), ([{"a": 1.0}, {"a": float("nan")}], [1, 0]), {}),
        (BatchError, "1 trusted samples", logistic(), (TRUSTED[:1],), {}),
        (LabelError, "without a label", logistic(), ([{}, {}], [True, None]), {}),
        (LabelError, "no class for", logistic(), ([{}, {}], ["yes", "no"]), {}),
        (LabelError, "all the same", linear_model.LinearRegression(), ([{}, {}], [1.0, 1.0]), {}),
        (ModelError, "cannot predict the trusted", Scripted(), ([{}, {}], [True, False]), {}),
        (SettingError, "every", logistic(), (TRUSTED,), {"every": 0}),
    ],
)
def test_what_does_not_fit_is_said_at_once(
    error: type[Exception], said: str, model: Any, trusted: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=said):
        taster.guarded(model, *trusted, **options)
