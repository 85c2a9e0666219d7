"""Paired differences as sums, overall and by class: what tests need of them, and all that leaves the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


@dataclass(frozen=True)
class PairedSums:
    """Drops of one quantity from one model to another on the same samples. Sums of further samples are added with `+`.

    Attributes:
        yes_or_no: whether the quantity is right or wrong, so that a drop is 1, 0 or −1.
        count, total, squares: [1 + classes], of all samples and of each class: how many, the sum of drops, and of their
            squares.
    """

    yes_or_no: bool
    count: Array
    total: Array
    squares: Array

    def __add__(self, other: PairedSums) -> PairedSums:
        return PairedSums(
            self.yes_or_no, self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    @property
    def groups(self) -> int:
        """All samples, and the classes."""
        return len(self.count)

    def drop(self, group: int = 0) -> float:
        """The mean drop; 0 without samples."""
        return float(self.total[group] / self.count[group]) if self.count[group] else 0.0

    def error(self, group: int = 0) -> float:
        """The standard error of the mean drop; infinite for fewer than two samples."""
        n = float(self.count[group])
        if n < 2:
            return math.inf
        variance = max(0.0, float(self.squares[group]) - float(self.total[group]) ** 2 / n) / (n - 1)
        return math.sqrt(variance / n)

    def pvalue(self, group: int = 0) -> float:
        """Of the hypothesis that there is no drop: McNemar's exact test of yes and no, Student's paired test of
        numbers; 1 where there are too few samples to tell."""
        from scipy.stats import binom, t  # slow to import, and only needed here

        n = int(self.count[group])
        drop = self.drop(group)
        if n < 2 or not drop > 0:
            return 1.0
        if self.yes_or_no:
            changed = round(float(self.squares[group]))
            lost = round((changed + float(self.total[group])) / 2)
            return float(binom.sf(lost - 1, changed, 0.5))
        error = self.error(group)
        return float(t.sf(drop / error, n - 1)) if error > 0 else 0.0

    def gain_pvalue(self, group: int = 0) -> float:
        """Of the hypothesis that there is no gain."""
        return PairedSums(self.yes_or_no, self.count, -self.total, self.squares).pvalue(group)


def stacked(measured: Mapping[str, Tensor]) -> Tensor:
    """Quantities of the same samples as one tensor, [quantities, n] in float64."""
    first = next(iter(measured.values()))
    found = torch.empty(len(measured), len(first), dtype=torch.float64, device=first.device)
    for row, values in zip(found, measured.values(), strict=True):
        row.copy_(values)
    return found


def sums_on_device(
    before: Sequence[Tensor],
    after: Tensor,
    codes: Tensor | None = None,
    every_code: Tensor | None = None,
    overall: Tensor | None = None,
    by_class: Tensor | None = None,
) -> Tensor:
    """All that comparisons of one state of a model with others need, in one product and for one transfer.

    Args:
        before: the states that it is compared with, [quantities, n] in float64 each.
        after: the state, likewise.
        codes: the class of each sample, [n] from 0; None without classes.
        every_code: of each class, [classes].
        overall, by_class: whether each sample counts among all, and in its class, [n]; None where each does.

    Returns:
        [1 + quantities + 2 states quantities, 1 + classes] in float64, overall and by class: how many samples; the sums
        of what they are after; the sums of drops from each state; and the sums of their squares.
    """
    drops = (torch.stack(list(before)) - after).flatten(0, 1)
    rows = torch.cat([torch.ones_like(after[:1]), after, drops, drops.square()])
    classes = 0 if codes is None or every_code is None else len(every_code)
    member = torch.ones(after.shape[1], 1 + classes, dtype=torch.float64, device=after.device)
    if codes is not None and every_code is not None:
        torch.eq(codes[:, None], every_code, out=member[:, 1:])
        if by_class is not None:
            member[:, 1:] *= by_class[:, None]
    if overall is not None:
        member[:, 0] = overall
    return rows @ member


@dataclass(frozen=True)
class Comparison:
    """A state of a model compared with others, on the same samples.

    Attributes:
        after: the sum of each quantity over the samples; NaN or infinite where one of its values is.
        drops: from each of the states, by quantity.
    """

    after: dict[str, float]
    drops: list[dict[str, PairedSums]]

    @classmethod
    def of(cls, kinds: Mapping[str, bool], sums: Array, states: int) -> Comparison:
        """From what `sums_on_device` computed, after the transfer.

        Args:
            kinds: whether each quantity is yes or no, by name.
            sums: what was computed.
            states: how many it was compared with.
        """
        count, after = sums[0], sums[1 : 1 + len(kinds)]
        total, squares = sums[1 + len(kinds) :].reshape(2, states, len(kinds), -1)
        return cls(
            {name: float(after[i, 0]) for i, name in enumerate(kinds)},
            [
                {
                    name: PairedSums(kind, count, total[s, i], squares[s, i])
                    for i, (name, kind) in enumerate(kinds.items())
                }
                for s in range(states)
            ],
        )

    def and_of(self, other: Comparison) -> Comparison:
        """With further quantities."""
        drops = [{**own, **more} for own, more in zip(self.drops, other.drops, strict=True)]
        return Comparison({**self.after, **other.after}, drops)
