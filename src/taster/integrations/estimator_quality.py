"""What a gate measures of an estimator that is no `torch.nn.Module`: of each trusted sample, whether it is right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.types import Tensors
from taster.core.view import View
from taster.errors import BatchError, GuardError, LabelError, ModelError, SnapshotError
from taster.tasks import Classification, Regression

EstimatorTask = Literal["classification", "regression"]

STAGE = "probe_gate"
"""The gate's name in records: its decision is that of `probe_gate`."""

_LEAST = 1e-12
"""The smallest probability that a loss is computed of, so that none is infinite."""


class EstimatorView(View):
    """A view of an estimator, for gates: it has no parameters and no module.

    Attributes:
        estimator: as it was; to be read, not to be changed.
    """

    def __init__(self, estimator: Any, *, step: int, state_version: object, past: Mapping[int, Any]) -> None:
        super().__init__(_no_module, _no_module, step=step, state_version=state_version)
        self.estimator = estimator
        self._past = past

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """The steps of the copies that can be gone back to, oldest first."""
        return tuple(self._past)

    def at(self, step_or_label: int | str) -> View:
        """The estimator as it was before an earlier step.

        Raises:
            SnapshotError: when no copy of it is kept.
        """
        if not isinstance(step_or_label, int) or step_or_label not in self._past:
            raise SnapshotError(f"no copy of before step {step_or_label!r}; there are those of {list(self._past)}")
        return EstimatorView(self._past[step_or_label], step=step_or_label, state_version=object(), past=self._past)


def _no_module() -> Any:
    raise ModelError("got a stage that wants parameters or outputs of a torch.nn.Module, wanted one for estimators")


class EstimatorQuality(ABC):
    """Measures an estimator on trusted samples: a `QualitySource`.

    Args:
        y: the trusted labels, one a sample.
        task: what they are.

    Attributes:
        labels: the classes among them; empty for regression.

    Raises:
        BatchError: for fewer than two.
        LabelError: for numbers that are not finite or all the same, and for labels that are no classes.
    """

    probe: Batch | None = None
    selectable = False

    def __init__(self, y: Sequence[Any], task: EstimatorTask) -> None:
        if task not in get_args(EstimatorTask):
            raise ModelError(f"got task {task!r}, wanted one of {', '.join(get_args(EstimatorTask))}")
        if len(y) < 2:
            raise BatchError(f"{STAGE}: got {len(y)} trusted samples, wanted 2 or more")
        self.task = task
        self.samples: int = len(y)
        self.labels: list[Any] = []
        self._classes: Tensor | None = None
        if task == "regression":
            self._numbers = numbers_of(y)
            if not bool(self._numbers.isfinite().all()):
                raise LabelError(f"{STAGE}: got NaN or infinity among the trusted targets, wanted finite numbers")
            self._regression = Regression()
            self._regression.prepare(self._numbers, STAGE)
            return
        index: dict[Any, int] = {}
        for row, label in enumerate(y):
            if label is None or (isinstance(label, (float, np.floating)) and not np.isfinite(label)):
                raise LabelError(f"{STAGE}: got {label} as trusted label {row}, wanted a class")
            try:
                index.setdefault(label, len(index))
            except TypeError as error:
                raise LabelError(
                    f"{STAGE}: got {type(label).__name__} as trusted label {row}, wanted one class a sample"
                ) from error
        self.labels = list(index)
        self._classes = torch.tensor([index[label] for label in y])

    @property
    def words(self) -> Mapping[str, str]:
        """What the quantities are called in sentences."""
        return Regression.words if self.task == "regression" else Classification.words

    def classes(self) -> Tensor | None:
        """The class of each trusted sample."""
        return self._classes

    def check(self, view: View) -> None:
        """Checks that the estimator can be asked for the trusted samples at all."""
        unknown = self.unknown_labels(estimator_in(view))
        if unknown:
            raise LabelError(
                f"{STAGE}: got trusted labels {', '.join(map(repr, unknown))} that the estimator has no class for, "
                "wanted all of them among the classes of its first call"
            )

    @abstractmethod
    def unknown_labels(self, estimator: Any) -> list[Any]:
        """The trusted labels that an estimator can never predict."""

    def has_learned(self, estimator: Any) -> bool:
        """Whether an estimator that can predict has learned what it predicts by."""
        return True

    @abstractmethod
    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """The quantities, by name, of all samples or of some."""

    def of_classes(self, correct: Any, probability: Any | None) -> Tensors:
        """The quantities from right and wrong, and from the probability of each true class where it is known."""
        right = torch.as_tensor(np.asarray(correct, dtype=bool))
        if probability is None:
            return {"correct": right}
        own = torch.as_tensor(np.asarray(probability, dtype=np.float64))
        return {"correct": right, "probability": own, "loss": -own.clamp(min=_LEAST).log()}

    def of_numbers(self, predicted: Any) -> Tensors:
        """The quantities from predicted numbers."""
        found = numbers_of(predicted)
        self._regression.check(found, self._numbers, STAGE)
        return {
            **self._regression.measure(found, self._numbers),
            "loss": self._regression.losses(found, self._numbers),
        }


def estimator_in(view: View) -> Any:
    """The estimator that a view shows.

    Raises:
        GuardError: for a view of something else.
    """
    if not isinstance(view, EstimatorView):
        raise GuardError(f"{STAGE}: got a view of a torch.nn.Module, wanted one of an estimator")
    return view.estimator


def numbers_of(y: Any) -> Tensor:
    """Targets as float64.

    Raises:
        LabelError: for anything else than numbers.
    """
    try:
        return torch.as_tensor(np.array(y, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise LabelError(
            f"{STAGE}: got targets that are no numbers ({error}), wanted numbers for regression"
        ) from error
