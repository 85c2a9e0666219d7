"""What gates measure of a model: once per state of the model, and checked."""

from __future__ import annotations

from collections.abc import Iterable

from taster.core.trusted_data import nonfinite_rows
from taster.core.types import Batch, Tensors
from taster.core.view import View
from taster.defences.gates.quality_sources import QualitySource
from taster.errors import CheckpointError, GuardError


class ProbeMeasurement:
    """Measures the model in a view; each state of the model once.

    Args:
        stage: name of the gate, for messages.
        source: what is measured.
    """

    def __init__(self, stage: str, source: QualitySource) -> None:
        self._stage = stage
        self.source = source
        self._checked = False
        self._latest: tuple[object, Tensors] | None = None

    @property
    def probe(self) -> Batch | None:
        """The trusted samples, where the source has some."""
        return self.source.probe

    def replace(self, source: QualitySource) -> None:
        """Measures by another source from now on."""
        self.source = source
        self._checked = False
        self._latest = None

    def __call__(self, view: View) -> Tensors:
        """What is measured of the model in the view.

        Raises:
            BatchError, ModelError, LabelError, GuardError: from the source.
        """
        if not self._checked:
            self.source.check(view)
            self._checked = True
        if not self.is_known(view):
            self._latest = (view.state_version, self.source.measure(view))
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
            elif self._latest is not None:
                sizes = {name: len(rows) for name, rows in self._latest[1].items()}
            else:
                return
            found = {name: len(rows) for name, rows in measured.items()}
            if found != sizes:
                raise CheckpointError(
                    f"got the state of a gate with a probe of {_counts(found)} samples, wanted {_counts(sizes)}: build "
                    "the guard with the probe that it had"
                )


def _counts(sizes: dict[str, int]) -> str:
    """ "300", or "hits 300, ranks 40" where they are not as many of each."""
    if len(set(sizes.values())) == 1:
        return str(next(iter(sizes.values())))
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
