"""What gates measure of a model: each state of the model and each sample once, and checked."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from taster.core.batch import Batch
from taster.core.trusted_data import nonfinite_rows
from taster.core.types import Tensors
from taster.core.view import View
from taster.defences.gates.quality_source import QualitySource
from taster.errors import CheckpointError, GuardError

_STATES = 3
"""States of the model whose measurements are kept: before and after an update, and one to go back to."""


class ProbeMeasurement:
    """Measures the model in a view; each of its states and each look at the samples once.

    Args:
        stage: name of the gate, for messages.
        source: what is measured.
    """

    def __init__(self, stage: str, source: QualitySource) -> None:
        self._stage = stage
        self.source = source
        self._checked = False
        self._states: list[tuple[object, Tensors | None, list[tuple[Tensor, Tensors]]]] = []

    @property
    def probe(self) -> Batch | None:
        """The trusted samples, where the source has some."""
        return self.source.probe

    def replace(self, source: QualitySource) -> None:
        """Measures by another source from now on."""
        self.source = source
        self._checked = False
        self._states = []

    def __call__(self, view: View) -> Tensors:
        """What is measured of the model in the view, of all samples.

        Raises:
            BatchError, ModelError, LabelError, GuardError: from the source.
        """
        self._check(view)
        version, everything, parts = self._known(view)
        if everything is None:
            everything = self.source.measure(view)
            self._remember(version, everything, parts)
        return everything

    def at(self, view: View, rows: Tensor | slice) -> Tensors:
        """What is measured of the model in the view, of the samples with these indices."""
        self._check(view)
        version, everything, parts = self._known(view)
        if everything is not None:
            return at_rows(everything, rows)
        for looked_at, measured in parts:
            if looked_at is rows:
                return measured
        if isinstance(rows, slice):
            return at_rows(self(view), rows)
        measured = self.source.measure(view, rows)
        self._remember(version, None, [*parts, (rows, measured)])
        return measured

    def known_of(self, version: object, rows: Tensor | slice) -> Tensors | None:
        """What was measured of a state and samples, where that is still known."""
        for kept, everything, parts in self._states:
            if kept is version:
                if everything is not None:
                    return at_rows(everything, rows)
                return next((measured for looked_at, measured in parts if looked_at is rows), None)
        return None

    def reference(self, view: View) -> Tensors:
        """What is measured of a model that others are to be compared with, of all samples.

        Raises:
            GuardError: when a measurement is NaN or infinite: no comparison with it could find harm.
        """
        measured = self(view)
        found = nonfinite(measured)
        if found is not None:
            raise GuardError(f"{self._stage}: {found}; wanted finite numbers, as NaN can be compared with nothing")
        return measured

    def check_model(self, view: View) -> Tensors:
        """Checks that the source and the model fit together, by one measurement, which is returned."""
        self._checked = False  # the model may have other outputs now
        return self.reference(view)

    def check_saved(self, saved: Iterable[Tensors]) -> None:
        """Checks that saved measurements are of as many samples as are measured now.

        Raises:
            CheckpointError: when they are of another number.
        """
        for measured in saved:
            if self.probe is not None:
                sizes = dict.fromkeys(measured, len(self.probe))
            elif known := [everything for _, everything, _ in self._states if everything is not None]:
                sizes = {name: len(rows) for name, rows in known[-1].items()}
            else:
                return
            found = {name: len(rows) for name, rows in measured.items()}
            if found != sizes:
                raise CheckpointError(
                    f"got the state of a gate with a probe of {_counts(found)} samples, wanted {_counts(sizes)}: build "
                    "the guard with the probe that it had"
                )

    def _check(self, view: View) -> None:
        if not self._checked:
            self.source.check(view)
            self._checked = True

    def _known(self, view: View) -> tuple[object, Tensors | None, list[tuple[Tensor, Tensors]]]:
        return next((kept for kept in self._states if kept[0] is view.state_version), (view.state_version, None, []))

    def _remember(self, version: object, everything: Tensors | None, parts: list[tuple[Tensor, Tensors]]) -> None:
        others = [kept for kept in self._states if kept[0] is not version]
        self._states = [*others[-(_STATES - 1) :], (version, everything, parts)]


def at_rows(measured: Tensors, rows: Tensor | slice) -> Tensors:
    """The measurements of the samples with these indices."""
    return {name: values[rows] for name, values in measured.items()}


def nonfinite(measured: Tensors) -> str | None:
    """A sentence on the measurements that are NaN or infinite; None if there are none."""
    for name, values in measured.items():
        bad = nonfinite_rows(values) if name != "loss" else []
        if bad:
            return (
                f"the {name} is NaN or infinite on {len(bad)} of {len(values)} trusted samples (the first has "
                f"index {bad[0]})"
            )
    return None


def _counts(sizes: dict[str, int]) -> str:
    """ "300", or "hits 300, ranks 40" where they are not as many of each."""
    if len(set(sizes.values())) == 1:
        return str(next(iter(sizes.values())))
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
