"""What gates measure of a model on trusted samples: once per state of the model, checked, one row per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from taster.core.trusted_data import check_trusted_data, check_trusted_range, nonfinite_rows, trusted_outputs
from taster.core.types import Batch, Tensors
from taster.core.view import View
from taster.errors import CheckpointError, GuardError

MeasureFn = Callable[[Tensor, Tensor], Tensors]
"""From the model's outputs [n, ...] and the labels [n, ...] to tensors [n, ...] by name."""


class ProbeMeasurement:
    """Measures the model in a view on trusted samples; each state of the model once.

    The learner's loss on each sample is measured besides, under the name "loss".

    Args:
        stage: name of the gate, for messages.
        measure: what is measured.
        probe: the trusted samples.
        classes: whether labels must be class indices and outputs logits.
        bfloat16: runs the model under autocast to bfloat16.
        chunk: samples per forward pass.

    Raises:
        BatchError, LabelError: see `taster.core.trusted_data.check_trusted_data`.
    """

    def __init__(
        self, stage: str, measure: MeasureFn, probe: Batch, *, classes: bool, bfloat16: bool = False, chunk: int = 256
    ) -> None:
        self._stage = stage
        self._measure = measure
        self._classes = classes
        self._bfloat16 = bfloat16
        self._chunk = chunk
        self._probe = self._checked(probe)
        self._in_range = False
        self._latest: tuple[object, Tensors] | None = None

    @property
    def probe(self) -> Batch:
        """The trusted samples."""
        return self._probe

    @probe.setter
    def probe(self, probe: Batch) -> None:
        self._probe = self._checked(probe)
        self._in_range = False
        self._latest = None

    def __call__(self, view: View) -> Tensors:
        """What is measured of the model in the view.

        Raises:
            BatchError, ModelError, LabelError: see `taster.core.trusted_data`.
        """
        if not self._in_range:
            check_trusted_range(self._probe, view, self._stage)
            self._in_range = True
        if not self.is_known(view):
            device = self._probe.x.device.type
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=self._bfloat16):
                outputs = trusted_outputs(self._probe, view, self._stage, classes=self._classes, chunk=self._chunk)
                measured = self._measure(outputs, self._probe.y)
                self._latest = (view.state_version, {**measured, "loss": view.losses(outputs, self._probe.y)})
        assert self._latest is not None
        return self._latest[1]

    def is_known(self, view: View) -> bool:
        """Whether the model in the view is the one that was measured last."""
        return self._latest is not None and self._latest[0] is view.state_version

    def reference(self, view: View) -> Tensors:
        """What is measured of a model that others are to be compared with.

        Raises:
            GuardError: when a measurement is NaN or infinite: no comparison with it could find harm.
        """
        measured = self(view)
        found = self.nonfinite(measured)
        if found is not None:
            raise GuardError(f"{self._stage}: {found}; wanted finite numbers, as NaN can be compared with nothing")
        return measured

    def nonfinite(self, measured: Tensors) -> str | None:
        """A sentence on the measurements that are NaN or infinite; None if there are none."""
        for name, values in measured.items():
            bad = nonfinite_rows(values) if name != "loss" else []
            if bad:
                return (
                    f"the {name} is NaN or infinite on {len(bad)} of {len(values)} trusted samples (the first has "
                    f"index {bad[0]})"
                )
        return None

    def check_model(self, view: View) -> None:
        """Checks that trusted samples and model fit together, by one measurement."""
        self.reference(view)

    def check_saved(self, saved: Iterable[Tensor]) -> None:
        """Checks that saved measurements are of as many samples as the probe has.

        Raises:
            CheckpointError: when they are of another number.
        """
        for rows in saved:
            if len(rows) != len(self._probe):
                raise CheckpointError(
                    f"got the state of a gate with a probe of {len(rows)} samples, wanted {len(self._probe)}: build "
                    "the guard with the probe that it had"
                )

    def _checked(self, probe: Batch) -> Batch:
        return check_trusted_data(probe, self._stage, classes=self._classes, min_samples=2)
