"""Training of scikit-learn estimators on a data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.errors import ModelError

_LEAST = 1e-300
"""What stands for a probability of 0, so that losses stay finite."""


@dataclass(frozen=True, eq=False)
class FittedEstimator:
    """A scikit-learn classifier as taster asks models: a `Classifier`.

    Attributes:
        estimator: fitted on labels that are numbers of classes.
        classes: how many there are, whether or not the estimator has seen all of them.
    """

    estimator: Any
    classes: int

    def outputs(self, x: Tensor) -> Tensor:
        """Scores float64 [n, classes]: logarithms of the estimator's probabilities, so that cross-entropy is what it
        should be; without these its decision function, or 1 for the predicted class and 0 for others. Classes that it
        has never seen have the least score of all."""
        try:
            scores = self._scores(as_rows(x))
        except (ValueError, TypeError) as error:
            raise ModelError(f"model: {type(self.estimator).__name__} cannot predict: {error}") from error
        outputs = torch.full((len(x), self.classes), float(np.log(_LEAST)), dtype=torch.float64)
        outputs[:, torch.as_tensor(np.asarray(self.estimator.classes_, dtype=np.int64))] = torch.from_numpy(scores)
        return outputs.to(x.device)

    def _scores(self, flat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One for each class that the estimator has seen."""
        seen = np.asarray(self.estimator.classes_)
        if hasattr(self.estimator, "predict_proba"):
            probabilities = np.asarray(self.estimator.predict_proba(flat), dtype=np.float64)
            return np.asarray(np.log(probabilities.clip(_LEAST)))
        # With "ovo" a decision function has one value for each pair of classes.
        pairs = getattr(self.estimator, "decision_function_shape", None) == "ovo" and len(seen) > 2
        if hasattr(self.estimator, "decision_function") and not pairs:
            scores = np.asarray(self.estimator.decision_function(flat), dtype=np.float64)
            return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
        predicted = np.asarray(self.estimator.predict(flat))
        return np.asarray(predicted[:, None] == seen[None], dtype=np.float64)


@dataclass(frozen=True)
class EstimatorTraining:
    """Trains a scikit-learn classifier: a `Fit`. Samples are flattened to rows of numbers.

    Attributes:
        make_estimator: makes a new estimator that has not been fitted.
        classes: number of classes.
        seed: becomes the estimator's `random_state` where it has one, together with the one given to a call.
    """

    make_estimator: Callable[[], Any]
    classes: int
    seed: int = 0

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> FittedEstimator:
        """Trains; see `taster.core.fitting.Fit`.

        Raises:
            ModelError: if the estimator cannot be fitted, or takes no weights of samples and is given some that differ.
        """
        check_tensors(samples, "training")
        kept = torch.ones(len(samples), dtype=torch.bool) if weights is None else weights.cpu() > 0
        chosen = samples.select(kept.to(samples.x.device))
        estimator, given = self.make_estimator(), {}
        if hasattr(estimator, "get_params"):
            # Those of a pipeline's steps too.
            states = [name for name in estimator.get_params() if name.rpartition("__")[2] == "random_state"]
            estimator.set_params(**dict.fromkeys(states, (self.seed * 1_000_003 + seed) % 2**31))
        if weights is not None and not bool((weights.cpu()[kept] == weights.cpu()[kept][0]).all()):
            if "sample_weight" not in inspect.signature(estimator.fit).parameters:
                raise ModelError(
                    f"model: {type(estimator).__name__} takes no weights of samples, wanted one that does, or a "
                    "defence that keeps samples or leaves them out"
                )
            given["sample_weight"] = weights.cpu()[kept].double().numpy()
        try:
            estimator.fit(as_rows(chosen.x), chosen.y.cpu().numpy(), **given)
        except (ValueError, TypeError) as error:
            raise ModelError(f"model: {type(estimator).__name__} cannot be fitted: {error}") from error
        if not hasattr(estimator, "classes_"):
            raise ModelError(f"model: got {type(estimator).__name__}, which has no classes_, wanted a classifier")
        return FittedEstimator(estimator, self.classes)


def as_rows(x: Tensor) -> np.ndarray[Any, Any]:
    """Samples [n, ...] as rows of numbers, [n, d]."""
    # In double precision: small probabilities would otherwise all be 0, and samples in no order by them.
    rows: np.ndarray[Any, Any] = x.detach().flatten(1).double().cpu().numpy()
    return rows
