"""By how much two states of a model differ on trusted samples, with one reading from the device for each comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taster.core.host import to_host
from taster.core.types import Tensors
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.probe_measurement import at_rows, nonfinite_counts
from taster.defences.gates.quantities import anchored
from taster.stats.paired_sums import PairedSums, sums_by_name, sums_on_device


@dataclass(frozen=True)
class Look:
    """What a look at some samples has shown.

    Attributes:
        nonfinite: whether a measurement after the update is NaN or infinite.
        drops: since the last check.
        fallen: drops from the anchor; None where they were not asked for.
        right: how many samples are right, or the sum of another quantity.
    """

    nonfinite: bool
    drops: dict[str, PairedSums]
    fallen: dict[str, PairedSums] | None
    right: float


class ProbeComparison:
    """Compares what was measured of two states.

    Args:
        criteria: the classes of the samples.
    """

    def __init__(self, criteria: HarmCriteria) -> None:
        self._criteria = criteria

    def look(self, before: Tensors, after: Tensors, anchor: Tensors | None, rows: Tensor | slice) -> Look:
        """Compares an update with the last check, and with the anchor where that is given: all fetched at once.

        Args:
            before, after, anchor: what was measured of these samples.
            rows: their indices.
        """
        codes, kinds = self._codes(rows), _kinds(before)
        wanted = [
            nonfinite_counts(after).sum(),
            sums_on_device(before, after, codes, self._criteria.classes),
            after[anchored(after)[0]].double().sum(),
        ]
        if anchor is not None:
            wanted.append(sums_on_device(anchor, after, codes, self._criteria.classes))
        bad, found, right, *more = to_host(*wanted)
        fallen = sums_by_name(kinds, np.array(more[0])) if more else None
        return Look(bad > 0, sums_by_name(kinds, np.array(found)), fallen, right)

    def drops_at(self, before: Tensors, after: Tensors, rows: Tensor | slice) -> dict[str, PairedSums]:
        """The drops on samples with these indices, from what was measured of all."""
        return self.drops(at_rows(before, rows), at_rows(after, rows), rows)

    def drops(self, before: Tensors, after: Tensors, rows: Tensor | slice) -> dict[str, PairedSums]:
        """The drops on samples with these indices, from what was measured of them."""
        (found,) = to_host(sums_on_device(before, after, self._codes(rows), self._criteria.classes))
        return sums_by_name(_kinds(before), np.array(found))

    def _codes(self, rows: Tensor | slice) -> Tensor | None:
        return None if self._criteria.codes is None else self._criteria.codes[rows]


def samples_of(sums: dict[str, PairedSums]) -> float:
    """How many samples the drops are of."""
    return float(next(iter(sums.values())).count[0])


def _kinds(measured: Tensors) -> dict[str, bool]:
    """Whether each quantity is right or wrong."""
    return {name: values.dtype == torch.bool for name, values in measured.items()}
