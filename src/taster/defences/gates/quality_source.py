"""Where a gate's measurements come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from taster.core.batch import Batch
from taster.core.types import Tensors
from taster.core.view import View


class QualitySource(Protocol):
    """Measures a model, one row a sample."""

    @property
    def probe(self) -> Batch | None:
        """The trusted samples, where it has some."""
        ...

    @property
    def words(self) -> Mapping[str, str]:
        """What each quantity is called in sentences, by its name; those without one go by it."""
        ...

    def check(self, view: View) -> None:
        """Checks that it fits the model, before the first measurement."""
        ...

    @property
    def selectable(self) -> bool:
        """Whether some of the samples can be measured without the others; known after `check`."""
        ...

    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """Quantities by name, [n] each, higher is better; "loss", where there is one, is the loss of each sample.

        Args:
            view: of the model.
            rows: the indices of the samples to measure; None for all.
        """
        ...

    def classes(self) -> Tensor | None:
        """The class of each sample, where each has one."""
        ...


def described(value: Any) -> str:
    """What a user's function returned, in messages: the shape of a tensor, else the type."""
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
