"""`taster.guarded`: a guard around estimators that are no `torch.nn.Module`."""

from __future__ import annotations

from typing import Any

from taster.errors import ExtraError, ModelError
from taster.integrations.estimator_guard import OnRefusal
from taster.integrations.estimator_quality import EstimatorTask


def guarded(
    estimator: Any,
    X_trusted: Any,
    y_trusted: Any = None,
    *,
    every: int | None = None,
    tolerance: float = 1.0,
    alpha: float = 0.01,
    class_tolerance: float | None = 5.0,
    max_rewind: int = 8,
    task: EstimatorTask | None = None,
    on_refusal: OnRefusal | None = None,
) -> Any:
    """A guard around an estimator that keeps learning: scikit-learn's by `partial_fit`, river's by `learn_one`.

        model = taster.guarded(SGDClassifier(loss="log_loss"), X_trusted, y_trusted)
        for X, y in stream:
            model.partial_fit(X, y, classes=classes)

        model = taster.guarded(StandardScaler() | LogisticRegression(), trusted_pairs)
        for x, y in stream:
            model.learn_one(x, y)

    What is returned has the estimator's own interface. The decision is that of `taster.guard`: the estimator before and
    after an update predicts the trusted samples, and an update that costs more than a tolerance is undone, or with it
    as many before as a slow drift took. Classifiers are judged by accuracy and, where they know probabilities, by that
    of the true class; regressors by explained variance. Batches are refused as a whole.

    Checks come every `every` calls of `partial_fit`, or samples of river's; at each the estimator is copied by
    `copy.deepcopy`, and a refusal undoes everything learned since. What lies between two checks is a step: `records`
    has one for each, `counters` counts them. `check()` checks at once.

    What an estimator has learned before is the anchor that later states are compared with. One that has learned nothing
    has nothing to compare with: its first call (in river its first `every` samples) is learned unless it makes numbers
    that are not finite, and is the anchor. Let it be data that you trust, or hand over an estimator that has learned.

    An estimator that honest batches throw about by more than the tolerance, SGDClassifier in its first steps say, has
    many of them refused: let it begin fitted, average its weights (`average=True`), learn in smaller steps or from
    larger batches, or check less often.

    Args:
        estimator: it is not changed: a copy learns.
        X_trusted, y_trusted: labelled samples that nobody else can write to and that are never learned: 500 or more.
            For river dictionaries and labels; or an iterable of pairs and no labels.
        every: calls (samples) between two checks; None is 1 for scikit-learn, 100 for river. A check predicts all
            trusted samples.
        tolerance: drop that is let through, in percentage points.
        alpha: probability, at a check, of refusing an update that costs nothing, at most.
        class_tolerance: drop in one class that is let through, in points; None tests no classes.
        max_rewind: the maximum number of checks by which a slow drift is undone; up to five copies are kept for it. 0
            undoes the last step alone.
        task: "classification" or "regression", for an estimator that does not say what it is.
        on_refusal: called with the record and (X, y), or (x, y), of each call that was undone since the last check,
            oldest first; of the calls before, to which a rewind goes back, none. Each refusal is logged as a warning as
            well, by the logger "taster.core.learner".

    Raises:
        ModelError: for an estimator that cannot learn call by call, or cannot predict the trusted samples.
        BatchError: for trusted samples with NaN or infinity, fewer than two, or another number than labels.
        LabelError: for trusted labels that the estimator has no class for.
        SettingError: for settings out of range.
        ExtraError: for a model with `learn_one`, without river.
    """
    options: dict[str, Any] = {
        "tolerance": tolerance,
        "alpha": alpha,
        "class_tolerance": class_tolerance,
        "max_rewind": max_rewind,
        "on_refusal": on_refusal,
    }
    if every is not None:
        options["every"] = every
    if callable(getattr(estimator, "learn_one", None)):
        try:
            from taster.integrations.river import guard_model
        except ModuleNotFoundError as error:
            if error.name != "river":
                raise
            raise ExtraError('got a model with learn_one, wanted river for it: pip install "taster[river]"') from error
        return guard_model(estimator, X_trusted, y_trusted, task, **options)
    if isinstance(estimator, type) or not hasattr(estimator, "predict"):
        raise ModelError(
            f"got {estimator!r}, wanted an estimator with partial_fit (scikit-learn) or learn_one (river); for a "
            "torch.nn.Module there are taster.Learner and taster.Guarded"
        )
    from taster.integrations.sklearn import GuardedEstimator

    model = GuardedEstimator(estimator, X_trusted, y_trusted, task=task, **options)
    model.prepare()
    return model
