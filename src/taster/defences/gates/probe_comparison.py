"""By how much states of a model differ on trusted samples, with one reading from the device for each comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from taster.core.host import to_host
from taster.core.types import Tensors
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.quantities import anchored, quantities
from taster.defences.gates.row_order import LookRows
from taster.stats.paired_sums import Comparison, PairedSums, stacked, sums_on_device

_STATES = 4
"""States of the model whose measurements are kept in one piece: after an update, before it, and the anchor; one more
for an update that was refused."""


@dataclass(frozen=True)
class Look:
    """What a look at some samples has shown.

    Attributes:
        nonfinite: whether a measurement after the update seems to be NaN or infinite: their sum is.
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
        self._stacks: list[tuple[Tensors, Tensor]] = []

    def look(self, before: Tensors, after: Tensors, anchor: Tensors | None, samples: LookRows) -> Look:
        """Compares an update with the last check, and with the anchor where that is given: all fetched at once.

        Args:
            before, after: what was measured of these samples.
            anchor: what was measured of all.
            samples: these samples.
        """
        states: list[_Part] = [(before, None)] if anchor is None else [(before, None), (anchor, samples.rows)]
        (found,) = self._compared([(states, (after, None), samples)])
        return _look(found)

    def looks(self, before: Tensors, after: Tensors, parts: Sequence[Tensor | slice]) -> list[Look]:
        """Compares two states on several parts of the samples, all fetched at once.

        Args:
            before, after: what was measured of all samples.
            parts: the indices of the samples of each part.
        """
        wanted: list[_Wanted] = [([(before, rows)], (after, rows), LookRows(rows)) for rows in parts]
        return [_look(found) for found in self._compared(wanted)]

    def drops_at(self, before: Tensors, after: Tensors, rows: Tensor | slice) -> dict[str, PairedSums]:
        """The drops on samples with these indices, from what was measured of all."""
        return self.looks(before, after, [rows])[0].drops

    def drops(self, before: Tensors, after: Tensors, samples: LookRows) -> dict[str, PairedSums]:
        """The drops on these samples, from what was measured of them."""
        return self.look(before, after, None, samples).drops

    def _compared(self, wanted: Sequence[_Wanted]) -> list[Comparison]:
        """For each one: states, the one that they are compared with, and its samples."""
        pieces: list[tuple[int, list[str]]] = []
        tensors: list[Tensor] = []
        criteria = self._criteria
        for i, (states, after, samples) in enumerate(wanted):
            codes = None if criteria.codes is None else criteria.codes[samples.rows]
            masks = samples.overall, samples.by_class
            for names in _alike(after[0]):
                before = [self._stacked(state, names) for state in states]
                tensors.append(sums_on_device(before, self._stacked(after, names), codes, criteria.every_code, *masks))
                pieces.append((i, names))
        found: list[list[Comparison]] = [[] for _ in wanted]
        for (i, names), sums in zip(pieces, to_host(*tensors), strict=True):
            states, (measured, _), _ = wanted[i]
            kinds = {name: measured[name].dtype == torch.bool for name in names}
            found[i].append(Comparison.of(kinds, np.array(sums), len(states)))
        return [reduce(Comparison.and_of, parts) for parts in found]

    def _stacked(self, part: _Part, names: list[str]) -> Tensor:
        """Quantities of some samples, [quantities, n]; of all quantities together they are kept."""
        measured, rows = part
        if len(names) < len(measured):
            whole = stacked({name: measured[name] for name in names})
        else:
            known = next((stack for kept, stack in self._stacks if kept is measured), None)
            whole = stacked(measured) if known is None else known
            others = [kept for kept in self._stacks if kept[0] is not measured]
            self._stacks = [*others[-(_STATES - 1) :], (measured, whole)]
        return whole if rows is None else whole[:, rows]


_Part = tuple[Tensors, Tensor | slice | None]
"""What was measured, and the indices of the samples that count; None for all."""

_Wanted = tuple[list[_Part], _Part, LookRows]
"""States, the one that they are compared with, and its samples."""


def samples_of(sums: dict[str, PairedSums]) -> float:
    """How many samples the drops are of."""
    return float(next(iter(sums.values())).count[0])


def _look(found: Comparison) -> Look:
    nonfinite = not all(math.isfinite(found.after[name]) for name in quantities(found.after))
    fallen = found.drops[1] if len(found.drops) > 1 else None
    return Look(nonfinite, found.drops[0], fallen, found.after[anchored(found.after)[0]])


def _alike(measured: Tensors) -> list[list[str]]:
    """The names of the quantities, those of as many samples together: of a user's own there may be other numbers."""
    return (
        [list(measured)] if len({len(values) for values in measured.values()}) == 1 else [[name] for name in measured]
    )
