"""A guard around scikit-learn's estimators that learn by `partial_fit`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from torch import Tensor

from taster.core.progress import COUNTERS
from taster.core.step_record import StepRecord
from taster.core.types import Tensors
from taster.core.view import View
from taster.errors import BatchError, LabelError, ModelError
from taster.integrations.estimator_guard import EstimatorGuard, OnRefusal, estimator_settings
from taster.integrations.estimator_quality import STAGE, EstimatorQuality, EstimatorTask, estimator_in


class GuardedEstimator(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator whose `partial_fit` is guarded. `taster.guarded` makes it, and checks it at once.

    It has the estimator's own methods and attributes besides: `predict_proba`, `decision_function`, `coef_`. In a
    `Pipeline` it can be the last step. Around a `Pipeline`, `partial_fit` sends samples through the steps before the
    last, which must be fitted or need no fitting, and the last one learns.

    Args:
        estimator: it is never changed: what learns is a copy, `estimator_`, another one after each refusal.
        X_trusted, y_trusted: as `partial_fit` takes them.
        every: calls of `partial_fit` between two checks.
        tolerance, alpha, class_tolerance, max_rewind, task, on_refusal: see `taster.guarded`.

    `set_params` of the estimator's own settings reaches the one that learns. Any change of settings gives the guard a
    new anchor, the present state; another `estimator` begins anew.
    """

    def __init__(
        self,
        estimator: Any,
        X_trusted: Any,
        y_trusted: Any,
        *,
        every: int = 1,
        tolerance: float = 1.0,
        alpha: float = 0.01,
        class_tolerance: float | None = 5.0,
        max_rewind: int = 8,
        task: EstimatorTask | None = None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self.estimator = estimator
        self.X_trusted = X_trusted
        self.y_trusted = y_trusted
        self.every = every
        self.tolerance = tolerance
        self.alpha = alpha
        self.class_tolerance = class_tolerance
        self.max_rewind = max_rewind
        self.task = task
        self.on_refusal = on_refusal

    @property
    def estimator_(self) -> Any:
        """The estimator that has learned; the one given, before anything is learned.

        It is to be read. A refusal replaces it by a copy.
        """
        guard = self.__dict__.get("_guard")
        if guard is not None:
            return guard.estimator
        return self.__dict__.get("_fitted", self.__dict__["estimator"])

    @property
    def records(self) -> list[StepRecord]:
        """What became of the last steps, oldest first: one record a check, of the last 10,000."""
        guard = self.__dict__.get("_guard")
        return [] if guard is None else list(guard.records)

    @property
    def last_record(self) -> StepRecord | None:
        """The newest record."""
        guard = self.__dict__.get("_guard")
        return guard.records[-1] if guard is not None and guard.records else None

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the steps, by name; a step is what lies between two checks."""
        guard = self.__dict__.get("_guard")
        return MappingProxyType(dict.fromkeys(COUNTERS, 0)) if guard is None else guard.counters

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> GuardedEstimator:
        """Learns a batch, unless the guard refuses it.

        Args:
            X, y: the batch.
            classes: as the estimator wants them at its first call; all trusted labels must be among them.
            sample_weight: for estimators that take weights.

        Raises:
            BatchError: for unequal lengths, and at the first call for another number of features than the trusted
                samples have.
            LabelError: for trusted labels that are not among the classes.
            whatever the estimator raises. It is as before the call then.
        """
        guard = self.prepare()
        samples = _length(X, "samples")
        if samples != _length(y, "labels"):
            raise BatchError(f"got {samples} samples and {_length(y, 'labels')} labels, wanted as many of each")
        if not hasattr(guard.estimator, "n_features_in_"):  # else it speaks for itself
            _check_features(X, self.X_trusted)
        if classes is not None:
            known = set(np.unique(np.asarray(classes)).tolist())
            _refuse_unknown([label for label in guard.quality.labels if label not in known])
        given = {"classes": classes, "sample_weight": sample_weight}
        options = {name: value for name, value in given.items() if value is not None}
        guard.learn(functools.partial(_partial_fit, x=X, y=y, options=options), (X, y), samples)
        return self

    def check(self) -> StepRecord | None:
        """Checks what was learned since the last check, without waiting for `every`; None where that is nothing."""
        return self.prepare().check()

    def fit(self, X: Any, y: Any, **fit_params: Any) -> GuardedEstimator:
        """Fits a clone of the estimator, unguarded, with which the guard begins anew: its owner vouches for the data.

        Args:
            X, y, fit_params: as the estimator takes them.
        """
        fitted = clone(self.estimator).fit(X, y, **fit_params)
        self.__dict__.pop("_guard", None)
        self._fitted = fitted
        return self

    def predict(self, X: Any, **params: Any) -> Any:
        """What the estimator predicts."""
        return self.estimator_.predict(X, **params)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """The estimator's score."""
        options = {} if sample_weight is None else {"sample_weight": sample_weight}
        return self.estimator_.score(X, y, **options)

    def set_params(self, **params: Any) -> GuardedEstimator:
        """Changes settings; see the class."""
        if not params:
            return self
        super().set_params(**params)
        present = copy.deepcopy(self.estimator_)
        self.__dict__.pop("_guard", None)
        self.__dict__.pop("_fitted", None)
        if "estimator" not in params:
            own = {key.partition("__")[2]: value for key, value in params.items() if key.startswith("estimator__")}
            self._fitted = present.set_params(**own) if own else present
        return self

    def prepare(self) -> EstimatorGuard:
        """The guard, made at the first call and checked against the estimator.

        Raises:
            SettingError: for settings out of range.
            ModelError: for an estimator without `partial_fit`, or of neither classes nor numbers.
            BatchError, LabelError: for trusted data that do not fit.
        """
        guard: EstimatorGuard | None = self.__dict__.get("_guard")
        if guard is None:
            estimator = self.estimator_
            _partial_fit_of(estimator)
            settings = estimator_settings(
                every=self.every,
                tolerance=self.tolerance,
                alpha=self.alpha,
                class_tolerance=self.class_tolerance,
                max_rewind=self.max_rewind,
            )
            quality = SklearnQuality(self.X_trusted, self.y_trusted, self.task or _task_of(estimator))
            guard = EstimatorGuard(estimator, quality, settings, self.on_refusal, by_batch=True)
            self._guard = guard
        return guard

    def __getattr__(self, name: str) -> Any:
        # Asked for what this class lacks. Without `estimator`, as while a copy is being made, it has nothing to ask.
        if (name.startswith("_") and name != "_estimator_type") or "estimator" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.estimator_, name)

    def __sklearn_is_fitted__(self) -> bool:
        if "_fitted" in self.__dict__:
            return True
        guard = self.__dict__.get("_guard")
        if guard is not None:
            return bool(guard.has_learned)
        return _is_fitted(self.estimator)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import get_tags  # not in scikit-learn 1.5, which does not ask for tags

        return get_tags(self.estimator)


class SklearnQuality(EstimatorQuality):
    """Measures an estimator by `predict` and, where it has that, `predict_proba`.

    Args:
        x, y: trusted samples and labels.
        task: what the labels are.

    Raises:
        BatchError: for unequal lengths, and for NaN or infinity.
    """

    def __init__(self, x: Any, y: Any, task: EstimatorTask) -> None:
        samples, labels = _length(x, "trusted samples"), np.array(y)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if samples != len(labels):
            raise BatchError(f"{STAGE}: got {samples} trusted samples and {len(labels)} labels, wanted as many of each")
        try:
            check_array(x, accept_sparse=True, dtype=None, ensure_2d=False, allow_nd=True)
        except ValueError as error:
            raise BatchError(f"{STAGE}: got trusted samples that cannot be used: {error}") from error
        super().__init__(labels.tolist(), task)
        self._x = copy.deepcopy(x)
        self._y = labels

    def unknown_labels(self, estimator: Any) -> list[Any]:
        """Those that are not in the estimator's `classes_`."""
        known = getattr(estimator, "classes_", None)
        if known is None:
            return []
        there = set(np.asarray(known).tolist())
        return [label for label in self.labels if label not in there]

    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """The quantities."""
        estimator = estimator_in(view)
        predicted = np.asarray(self._asked(estimator.predict))
        if self.task == "regression":
            return self.of_numbers(predicted)
        correct = predicted.reshape(len(self._y)) == self._y
        if not hasattr(estimator, "predict_proba") or not hasattr(estimator, "classes_"):
            return self.of_classes(correct, None)
        place = {label: column for column, label in enumerate(np.asarray(estimator.classes_).tolist())}
        probabilities = np.asarray(self._asked(estimator.predict_proba))
        columns = [place[label] for label in self._y.tolist()]
        return self.of_classes(correct, probabilities[np.arange(len(columns)), columns])

    def _asked(self, method: Callable[[Any], Any]) -> Any:
        try:
            with np.errstate(all="ignore"):  # of a class that has not been seen yet: log(0)
                return method(self._x)
        except NotFittedError:
            raise
        except Exception as error:
            raise ModelError(
                f"{STAGE}: the estimator cannot predict the trusted samples ({error}), wanted samples like those that "
                "it learns"
            ) from error


def _partial_fit_of(estimator: Any) -> Any:
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    if not (callable(getattr(last, "partial_fit", None)) and callable(getattr(estimator, "predict", None))):
        raise ModelError(
            f"got {type(last).__name__}, which has no partial_fit and predict, wanted an estimator that learns batch "
            "by batch, an SGDClassifier say, alone or as the last step of a Pipeline"
        )
    return last


def _partial_fit(estimator: Any, x: Any, y: Any, options: Mapping[str, Any]) -> None:
    if isinstance(estimator, Pipeline):
        if len(estimator.steps) > 1:
            x = estimator[:-1].transform(x)
        estimator = estimator.steps[-1][1]
    estimator.partial_fit(x, y, **options)


def _task_of(estimator: Any) -> EstimatorTask:
    if is_classifier(estimator):
        return "classification"
    if is_regressor(estimator):
        return "regression"
    raise ModelError(
        f"got {type(estimator).__name__}, which is neither a classifier nor a regressor, wanted one of them; or "
        'task="classification" or task="regression" for one that does not say what it is'
    )


def _length(values: Any, what: str) -> int:
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape):
        return int(shape[0])
    try:
        return len(values)
    except TypeError as error:
        raise BatchError(f"got {type(values).__name__} as {what}, wanted an array with one row a sample") from error


def _check_features(x: Any, trusted: Any) -> None:
    counts = [np.shape(part)[1] if len(np.shape(part)) == 2 else None for part in (x, trusted)]
    if None not in counts and counts[0] != counts[1]:
        raise BatchError(f"got samples of {counts[0]} features, the trusted ones have {counts[1]}; wanted as many")


def _refuse_unknown(labels: list[Any]) -> None:
    if labels:
        raise LabelError(
            f"{STAGE}: got trusted labels {', '.join(map(repr, labels))} that are not among the classes, wanted all "
            "of them in partial_fit(classes=...)"
        )


def _is_fitted(estimator: Any) -> bool:
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError):
        return False
    return True
