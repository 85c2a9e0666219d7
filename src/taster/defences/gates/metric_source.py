"""Measurements by trusted samples and a metric of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.types import Tensors
from taster.core.view import View
from taster.defences.gates.probe_source import ProbeSource
from taster.defences.gates.quality_source import described
from taster.errors import GuardError, TasterError

Metric = Callable[[Any, Any], Tensor]
"""(output, y) -> [n]: how well the model does on each sample; higher is better."""


class MetricSource(ProbeSource):
    """Trusted samples, and a metric of outputs and targets."""

    def __init__(self, stage: str, probe: Any, metric: Metric) -> None:
        super().__init__(stage, probe, _MetricTask(stage, metric))

    def _target(self, batch: Batch) -> Any:
        return batch.x if batch.y is None else batch.y

    def _measured(self, view: View, output: Tensor, batch: Batch, *, own_loss: bool) -> Tensors:
        assert self._task is not None
        measured = self._task.measure(output, self._target(batch))
        return {**measured, "loss": self._own_losses(view, output, batch)} if own_loss else measured

    def classes(self) -> Tensor | None:
        """None: a metric knows no classes."""
        return None


class _MetricTask:
    """A metric as a task."""

    name = "metric"
    words: ClassVar[Mapping[str, str]] = {"metric": "the metric"}

    def __init__(self, stage: str, metric: Metric) -> None:
        self._stage = stage
        self._metric = metric

    def prepare(self, y: Any, stage: str) -> None:
        """Any targets will do."""

    def check(self, output: Tensor, y: Any, stage: str) -> None:
        """The metric knows."""

    def measure(self, output: Tensor, y: Any) -> Tensors:
        """The metric, [n].

        Raises:
            GuardError: for a metric that fails, or does not return one real number per sample.
        """
        try:
            found = self._metric(output, y)
        except (TasterError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise GuardError(
                f"{self._stage}: the metric failed on outputs {described(output)} and targets {described(y)}: {error!r}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != output.shape[:1] or found.is_complex():
            got = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise GuardError(f"the metric returned {got}, wanted one real number per sample, [{len(output)}]")
        return {"metric": found.detach().clone()}

    def losses(self, output: Tensor, y: Any) -> Tensor:  # noqa: ARG002
        """None is known."""
        raise GuardError(f"{self._stage}: a metric knows no loss")

    def classes(self, _: Any) -> Tensor | None:
        """None: it knows no classes."""
        return None
