"""Which trusted samples a check looks at first, which next, and which only an audit sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taster.stats.detection_bound import held_out_samples

FIRST = 128
"""Samples of the first look."""

_FEW = 24
"""Samples of a rare class by which a look can tell that a good part of it was lost."""

_RARE = 0.75
"""The part of an even share under which a class is rare."""

_ROOM = FIRST // 2
"""Samples of such classes for which a first look has room."""

_STRUCK = 4
"""Classes that the room for those which were struck is shared out over, at most."""

BLOCK = 16
"""Checks, on average, that begin with the same samples."""


@dataclass(frozen=True, eq=False)
class LookRows:
    """The samples of one look.

    Attributes:
        rows: their indices.
        overall: [n], whether each counts among all samples; None where each does. Those that are there for their class
            do not.
        by_class: [n], whether each counts in its class; None where each does. Those that have been counted do not.
    """

    rows: Tensor | slice
    overall: Tensor | None = None
    by_class: Tensor | None = None


class RowOrder:
    """An order of the trusted samples that nobody can guess.

    A check looks at a first few samples, and at twice as many each time that they leave it in doubt. The order is drawn
    anew after a random number of checks. Beyond the first thousand, up to three fifths of the samples are held out: no
    check looks at them but an audit, so that refusals of the others tell an attacker nothing of them.

    A first look at a few samples of a rare class would say nothing of it. It has more of each class that has less than
    three quarters of an even share, up to 24 or half of an even share of the first look, and as many as there is room
    for of classes that were struck before; those count in their class alone. For either there is room for half as many
    samples as the first look has.

    Args:
        samples: how many there are.
        seed: of the order.
        classes: the class of each sample, from 0; None without classes.
        selectable: whether some can be looked at without the others.
        whole: looks at all at once that are not held out.
        device: of the indices.
    """

    def __init__(
        self,
        samples: int,
        seed: int,
        *,
        classes: Sequence[int] | None = None,
        selectable: bool = True,
        whole: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.samples = samples
        self._seed = seed
        self._settings: dict[str, Any] = {
            "classes": classes,
            "selectable": selectable,
            "whole": whole,
            "device": device,
        }
        self._device = device
        held = held_out_samples(samples) if selectable else 0
        shuffled = self._shuffled(samples, -1)
        places = shuffled[held:].sort().values
        self.held_out: Tensor = shuffled[:held].sort().values.to(device)
        self.open: Tensor | slice = places.to(device) if held else slice(None)
        self._count = samples - held
        self._whole = whole or not selectable or self._count < 2 * FIRST
        self._classes = None if self._whole or classes is None else np.array(classes)[places.numpy()]
        self._rare = {} if self._classes is None else _rare(self._classes)
        self._cached: tuple[tuple[int, tuple[int, ...]], list[LookRows]] | None = None

    def reseeded(self, seed: int) -> RowOrder:
        """The order of another seed."""
        return RowOrder(self.samples, seed, **self._settings)

    @property
    def whole(self) -> bool:
        """Whether each check looks at all samples that are not held out."""
        return self._whole

    @property
    def parts(self) -> list[Tensor | slice]:
        """The indices of the samples that are not held out, and of those that are, where there are some."""
        return [self.open, self.held_out] if len(self.held_out) else [self.open]

    def looks(self, block: int, struck: Sequence[int] = ()) -> list[LookRows]:
        """The samples of each look, in the order of this block.

        Args:
            block: its number.
            struck: classes of which the first look has more than of others: of the first four at most.
        """
        key = block, tuple(struck)
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._looks(*key))
        return self._cached[1]

    def ends_block(self, step: int) -> bool:
        """Whether a new block begins after this step; by chance."""
        return self._draw(step, 2**20) % BLOCK == 0

    def _looks(self, block: int, struck: tuple[int, ...]) -> list[LookRows]:
        if self._whole:
            return [LookRows(self.open)]
        order = self._shuffled(self._count, block)
        sizes, left = [FIRST], self._count - FIRST
        while left > 0:
            take = sum(sizes)
            take = left if left < 2 * take else take  # no last look at a handful
            sizes.append(take)
            left -= take
        first, *others = (part.sort().values for part in torch.split(order, sizes))
        extra = self._extra(order, struck)
        if extra is None:
            return [LookRows(self._indices(part)) for part in (first, *others)]
        counted = torch.arange(len(first) + len(extra)) < len(first)
        looks = [LookRows(self._indices(torch.cat([first, extra])), counted.to(self._device))]
        return looks + [
            LookRows(self._indices(part), None, torch.isin(part, extra, invert=True).to(self._device))
            for part in others
        ]

    def _extra(self, order: Tensor, struck: tuple[int, ...]) -> Tensor | None:
        """Samples of rare classes, and of those that were struck, that the first look has beside its own."""
        if self._classes is None:
            return None
        # None of a class that was struck is looked at less than without that.
        share = _ROOM // max(1, min(len(struck), _STRUCK))
        wanted = self._rare | {label: max(share, self._rare.get(label, 0)) for label in struck[:_STRUCK]}
        own, after = self._classes[order[:FIRST].numpy()], order[FIRST:]
        classes, found = self._classes[after.numpy()], []
        for label, count in wanted.items():
            more = torch.from_numpy(np.flatnonzero(classes == label))[: max(0, count - int((own == label).sum()))]
            found.append(after[more])
        extra = torch.cat(found) if found else order[:0]
        return extra.sort().values if len(extra) else None

    def _indices(self, part: Tensor) -> Tensor:
        """Of samples by their places among those that are not held out."""
        part = part.to(self._device)
        return part if isinstance(self.open, slice) else self.open[part]

    def _shuffled(self, count: int, block: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self._place_seed(2 * block + 3)))

    def _draw(self, step: int, below: int) -> int:
        # NumPy's: one number is no work for tensors, and a step waits for none beside its readings.
        return int(np.random.RandomState(self._place_seed(2 * step + 2) % 2**32).randint(below))

    def _place_seed(self, place: int) -> int:
        # A generator's first draws from neighbouring seeds are alike in nothing that is known.
        return (self._seed * 1_000_003 + place) % 2**63


def _rare(classes: np.ndarray) -> dict[int, int]:
    """The rare classes, and how many samples of each a first look has at least."""
    labels, sizes = np.unique(classes, return_counts=True)
    rare = labels[sizes < _RARE * len(classes) / len(labels)]
    least = max(FIRST // (2 * len(labels)), min(_FEW, _ROOM // max(1, len(rare))))
    return {int(label): least for label in rare}
