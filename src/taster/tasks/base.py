"""What a task is: how well a model does on each trusted sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from taster.core.batch import Batch
from taster.core.nested import LABEL_KEYS
from taster.core.types import Tensors
from taster.errors import LabelError


@runtime_checkable
class Task(Protocol):
    """Measures a model's predictions, sample by sample."""

    @property
    def name(self) -> str:
        """As `task=` takes it."""
        ...

    @property
    def words(self) -> Mapping[str, str]:
        """What each quantity is called in sentences, by its name, the one that counts first."""
        ...

    def prepare(self, y: Tensor, stage: str) -> None:
        """Checks all labels by themselves, before the model is asked; takes from them what measuring needs.

        Raises:
            LabelError: for labels of another kind.
        """
        ...

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """Checks that predictions and labels, or a part of both, fit together: by the shape of the predictions, and the
        values of the labels. Once all labels have been checked with predictions of one shape, they are not again.

        Raises:
            ModelError, LabelError: when they do not.
        """
        ...

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """Quantities by name, [n] each, higher is better: boolean, or fractions of 1."""
        ...

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """The usual loss of each sample, [n], for models whose own is none of single samples."""
        ...

    def classes(self, y: Tensor, /) -> Tensor | None:
        """The class of each sample, [n], where each has one."""
        ...


def labels_of(batch: Batch, stage: str) -> Tensor:
    """The labels of a batch: y, or the entry of a dictionary that is called labels, label, targets, target or y.

    Raises:
        LabelError: when there are none, or several tensors of them.
    """
    found: Any = batch.y
    if found is None and isinstance(batch.x, Mapping):
        found = next((batch.x[key] for key in LABEL_KEYS if key in batch.x), None)
    if found is None and isinstance(batch.x, (list, tuple)) and len(batch.x) > 1:
        found = batch.x[-1]
    if not isinstance(found, Tensor):
        raise LabelError(
            f"{stage}: got trusted data without a tensor of labels ({type(found).__name__}), wanted Batch(x, y), a "
            "dictionary with an entry labels, or evaluate=lambda model: ... that measures each sample by itself"
        )
    return found


def row_mean(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean of each row over its places, [n]; over those that are counted."""
    rows = values.reshape(len(values), -1)
    if counted is None:
        return rows.mean(1)
    mask = counted.reshape(len(values), -1)
    return (rows * mask).sum(1) / mask.sum(1)
