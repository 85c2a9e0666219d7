"""A guard around river's models, which learn sample by sample (extra `river`)."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from river import base
from torch import Tensor

from taster.core.step_record import StepRecord
from taster.core.types import Tensors
from taster.core.view import View
from taster.errors import BatchError, LabelError, ModelError
from taster.integrations.estimator_guard import EstimatorGuard, OnRefusal, estimator_settings
from taster.integrations.estimator_quality import STAGE, EstimatorQuality, EstimatorTask, estimator_in

RIVER_EVERY = 100
"""Samples between two checks by default: a check predicts all trusted samples, twice."""


class GuardedModel(base.Wrapper[Any]):
    """What guarded classifiers and regressors have in common; `taster.guarded` makes them.

    A guarded model has the model's own methods and attributes besides. In a pipeline it can be the last step, where it
    takes trusted samples as the steps before make them; around a pipeline it takes them as they come.

    Every `every` samples the model is checked, and copied (`copy.deepcopy`) if it may go on. A refusal goes back to the
    copy of the last check: everything learned since is undone, the honest samples among the poisoned too, and the
    statistics of scalers and drift detectors inside the model. A slow drift is undone by going back up to `max_rewind`
    checks. A call that raises is undone alone: the copy learns again what came before it.

    Args:
        model: it is never changed: what learns is a copy, `learned`, another one after each refusal.
        X_trusted, y_trusted: trusted samples and labels; or pairs of both, and None.
        every: samples between two checks.
        tolerance, alpha, class_tolerance, max_rewind, on_refusal: see `taster.guarded`.

    Raises:
        SettingError: for settings out of range.
        BatchError, LabelError: for trusted data that do not fit.
        ModelError: for a model that cannot learn, or cannot predict the trusted samples.
    """

    _task: EstimatorTask

    def __init__(
        self,
        model: Any,
        X_trusted: Any,
        y_trusted: Any = None,
        *,
        every: int = RIVER_EVERY,
        tolerance: float = 1.0,
        alpha: float = 0.01,
        class_tolerance: float | None = 5.0,
        max_rewind: int = 8,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        if not callable(getattr(model, "learn_one", None)) or not callable(getattr(model, "predict_one", None)):
            raise ModelError(f"got {type(model).__name__}, which has no learn_one and predict_one, wanted both")
        self.model = model
        self.X_trusted: list[dict[Any, Any]]
        self.y_trusted: list[Any]
        self.X_trusted, self.y_trusted = _trusted(X_trusted, y_trusted)
        self.every = every
        self.tolerance = tolerance
        self.alpha = alpha
        self.class_tolerance = class_tolerance
        self.max_rewind = max_rewind
        self.on_refusal = on_refusal
        settings = estimator_settings(
            every=every,
            tolerance=tolerance,
            alpha=alpha,
            class_tolerance=class_tolerance,
            max_rewind=max_rewind,
        )
        quality = RiverQuality(self.X_trusted, self.y_trusted, self._task)
        self._guard = EstimatorGuard(model, quality, settings, on_refusal, by_batch=False)

    @property
    def learned(self) -> Any:
        """The model that has learned. It is to be read; a refusal replaces it by a copy."""
        return self._guard.estimator

    @property
    def records(self) -> list[StepRecord]:
        """What became of the last steps, oldest first: one record a check, of the last 10,000."""
        return list(self._guard.records)

    @property
    def last_record(self) -> StepRecord | None:
        """The newest record."""
        return self._guard.records[-1] if self._guard.records else None

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the steps, by name; a step is what lies between two checks."""
        return self._guard.counters

    def learn_one(self, x: dict[Any, Any], y: Any, **kwargs: Any) -> None:
        """Learns one sample; after every `every` the guard checks the model.

        Args:
            x, y, kwargs: as the model takes them.

        Raises:
            whatever the model raises. It is as before the call then.
        """
        kept = dict(x)  # the caller may go on with its own
        self._guard.learn(functools.partial(_learn_one, x=kept, y=y, options=kwargs), (kept, y), 1)

    def learn_many(self, X: Any, y: Any, **kwargs: Any) -> None:
        """Learns a mini-batch, as `learn_one` does.

        Args:
            X, y, kwargs: as the model takes them.

        Raises:
            BatchError: for unequal lengths.
            ModelError: for a model without `learn_many`.
            whatever the model raises. It is as before the call then.
        """
        if not callable(getattr(self.learned, "learn_many", None)):
            raise ModelError(f"got {self.learned}, which has no learn_many, wanted calls of learn_one")
        if len(X) != len(y):
            raise BatchError(f"got {len(X)} samples and {len(y)} labels, wanted as many of each")
        if not len(X):
            return
        kept, labels = copy.copy(X), copy.copy(y)
        call = functools.partial(_learn_many, x=kept, y=labels, options=kwargs)
        self._guard.learn(call, (kept, labels), len(X), len(X))

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        """What the model predicts."""
        return self.learned.predict_one(x, **kwargs)

    def check(self) -> StepRecord | None:
        """Checks what was learned since the last check, without waiting for `every`; None where that is nothing."""
        return self._guard.check()

    @property
    def _wrapped_model(self) -> Any:
        return self.learned

    def __getattr__(self, name: str) -> Any:
        # Asked for what this class lacks. Without its guard, as while a copy is being made, it has nothing to ask.
        if name.startswith("_") or "_guard" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.learned, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.learned})"


class GuardedClassifier(GuardedModel, base.Classifier):
    """A classifier behind a guard; see `GuardedModel`."""

    _task = "classification"

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        """The probability of each class."""
        return self.learned.predict_proba_one(x, **kwargs)


class GuardedRegressor(GuardedModel, base.Regressor):
    """A regressor behind a guard; see `GuardedModel`."""

    _task = "regression"


class RiverQuality(EstimatorQuality):
    """Measures a model by `predict_one` and, where it has that, `predict_proba_one`."""

    def __init__(self, x: list[dict[Any, Any]], y: list[Any], task: EstimatorTask) -> None:
        super().__init__(y, task)
        self._x = x
        self._y = y
        self._has_probabilities: bool | None = None

    def unknown_labels(self, estimator: Any) -> list[Any]:
        """Labels beside yes and no, of a model that knows no others; other models meet classes as they come."""
        if self.task == "regression" or getattr(estimator, "_multiclass", True):
            return []
        return [label for label in self.labels if label not in (True, False)]

    def has_learned(self, estimator: Any) -> bool:
        """Whether it predicts the trusted samples otherwise than a clone, which has learned nothing, does.

        What that predicts, always the first class say, is not to be defended.
        """
        if not callable(getattr(estimator, "clone", None)):
            return True
        own, fresh = self._measured(copy.deepcopy(estimator)), self._measured(estimator.clone())
        return any(not torch.equal(own[name], fresh[name]) for name in own)

    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """The quantities. The model is copied: some learn while they predict."""
        return self._measured(copy.deepcopy(estimator_in(view)))

    def _measured(self, model: Any) -> Tensors:
        try:
            predicted = [model.predict_one(dict(x)) for x in self._x]
            own = self._probabilities(model)
        except Exception as error:
            raise ModelError(
                f"{STAGE}: the model cannot predict the trusted samples ({error!r}), wanted samples like those that it "
                "learns"
            ) from error
        if self.task == "regression":
            # A model that has not learned anything may predict nothing.
            return self.of_numbers([0.0 if value is None else value for value in predicted])
        return self.of_classes([bool(a == b) for a, b in zip(predicted, self._y, strict=True)], own)

    def _probabilities(self, model: Any) -> list[float] | None:
        if self.task == "regression" or self._has_probabilities is False:
            return None
        try:
            found = [model.predict_proba_one(dict(x)) for x in self._x]
        except (NotImplementedError, AttributeError):
            if self._has_probabilities:
                raise
            self._has_probabilities = False
            return None
        self._has_probabilities = True
        return [float(each.get(label, 0.0)) for each, label in zip(found, self._y, strict=True)]


def guard_model(model: Any, x: Any, y: Any, task: EstimatorTask | None, **options: Any) -> GuardedModel:
    """A guarded classifier or regressor, by what the model is.

    Raises:
        ModelError: for a model that is neither, and does not say by `task` what it does.
    """
    kind = task
    if kind is None:
        last = getattr(model, "_last_step", model)
        found = isinstance(last, base.Classifier), isinstance(last, base.Regressor)
        kind = "classification" if found[0] else "regression" if found[1] else None
    if kind not in ("classification", "regression"):
        raise ModelError(
            f"got {type(model).__name__}, which is neither a classifier nor a regressor, wanted one of them; or "
            'task="classification" or task="regression" for one that does not say what it is'
        )
    return (GuardedClassifier if kind == "classification" else GuardedRegressor)(model, x, y, **options)


def _learn_one(model: Any, x: dict[Any, Any], y: Any, options: Mapping[str, Any]) -> None:
    model.learn_one(x, y, **options)


def _learn_many(model: Any, x: Any, y: Any, options: Mapping[str, Any]) -> None:
    model.learn_many(x, y, **options)


def _trusted(x: Any, y: Any) -> tuple[list[dict[Any, Any]], list[Any]]:
    """Trusted samples and labels as lists of their own."""
    if y is None:
        pairs = list(x) if isinstance(x, Iterable) else []
        if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise BatchError(
                f"{STAGE}: got trusted data that are no pairs, wanted an iterable of (x, y), or samples and labels"
            )
        samples, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    else:
        samples = list(x.to_dict("records")) if hasattr(x, "to_dict") and not isinstance(x, Mapping) else list(x)
        labels = list(y.tolist() if hasattr(y, "tolist") else y)
    if len(samples) != len(labels):
        raise BatchError(
            f"{STAGE}: got {len(samples)} trusted samples and {len(labels)} labels, wanted as many of each"
        )
    for row, sample in enumerate(samples):
        if not isinstance(sample, Mapping):
            raise BatchError(f"{STAGE}: got {type(sample).__name__} as trusted sample {row}, wanted a dictionary")
        for name, value in sample.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise BatchError(f"{STAGE}: got {value} as {name!r} of trusted sample {row}, wanted finite numbers")
    if any(label is None for label in labels):
        raise LabelError(f"{STAGE}: got trusted samples without a label, wanted one for each")
    return [dict(sample) for sample in samples], labels
