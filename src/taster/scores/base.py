"""What a score is, and what scores fitted to trusted samples share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from taster.core.batch import Batch
from taster.core.step_record import StepRecord
from taster.core.trusted_data import check_trusted_data, check_trusted_range, trusted_outputs
from taster.core.view import View
from taster.errors import GuardError

V = TypeVar("V")


class Score(Protocol):
    """Measures how suspicious each sample of a batch is; decides nothing."""

    def __call__(self, batch: Batch, view: View, /) -> Tensor:
        """One number per sample, [n]; higher is more suspicious."""
        ...


class PeriodicFit(ABC, Generic[V]):
    """Something fitted to trusted samples, again after every `refit_every` steps, as the model goes on learning.

    Args:
        name: of the score or threshold, for messages.
        clean: trusted samples.
        refit_every: steps between fits.
        classes: whether the labels of the samples must be class indices.

    Raises:
        GuardError: for an interval under 1.
        BatchError, LabelError: see `taster.core.trusted_data.check_trusted_data`.
    """

    def __init__(self, name: str, clean: Batch, refit_every: int, *, classes: bool = False) -> None:
        if refit_every < 1:
            raise GuardError(f"{name}: got refit_every {refit_every}, wanted at least 1")
        self._name = name
        self._clean = check_trusted_data(clean, name, classes=classes)
        self._refit_every = refit_every
        self._classes = classes
        self._fitted: V | None = None
        # Before the first step: the fit to one state of the model, so that asking twice fits once.
        self._provisional: tuple[object, V] | None = None

    @abstractmethod
    def _fit(self, view: View) -> V:
        """The fit to the trusted samples, of the model in the view."""

    def fitted(self, view: View) -> V:
        """The last fit; before the first step, a fit to the model in the view."""
        if self._fitted is not None:
            return self._fitted
        if self._provisional is None or self._provisional[0] is not view.state_version:
            self._provisional = (view.state_version, self._fit(view))
        return self._provisional[1]

    def observe(self, record: StepRecord, view: View) -> None:
        """Fits again if `refit_every` steps have passed."""
        if self._fitted is None or (record.step + 1) % self._refit_every == 0:
            self._fitted = self._fit(view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the trusted samples; the next use fits to them."""
        self._clean = check_trusted_data(probe, self._name, classes=self._classes)
        self._fitted = self._provisional = None

    def check_model(self, view: View) -> None:
        """Checks that the model takes the trusted samples."""
        check_trusted_range(self._clean, view, self._name)
        trusted_outputs(self._clean, view, self._name, classes=self._classes)

    def state_dict(self) -> dict[str, Any]:
        """The last fit."""
        return {"fitted": self._fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the last fit."""
        self._fitted, self._provisional = state["fitted"], None


def split_in_half(batch: Batch) -> tuple[Batch, Batch]:
    """One half to fit to and one to estimate a threshold on; the same sample twice if there is only one."""
    half = max(len(batch) // 2, 1)
    return batch.select(slice(half)), batch.select(slice(len(batch) - half, len(batch)))
