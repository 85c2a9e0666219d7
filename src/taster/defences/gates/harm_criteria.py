"""What counts as harm: tolerances, the alpha that is shared out over all tests, and the sentence that tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taster.core.types import Tensors
from taster.defences.gates.quantities import independent, quantities
from taster.errors import GuardError
from taster.stats.paired_sums import PairedSums

REFERENCES = 2
"""The last check and the anchor: each quantity is tested against both."""


@dataclass(frozen=True)
class Evidence:
    """Evidence that an update did harm.

    Attributes:
        reason: a sentence.
        numbers: those behind it.
        quantity, group: what has fallen, of all samples (0) or in a class.
    """

    reason: str
    numbers: Mapping[str, float]
    quantity: str = ""
    group: int = 0

    @property
    def held_out(self) -> bool:
        """Whether the samples that are held out have shown it."""
        return bool(self.numbers.get("held_out"))


class HarmCriteria:
    """What the tests of a gate have in common: `step_test` against the last check, `anchor_test` against the anchor.

    A drop is harm where it is more than a limit and more than chance: larger than what is tolerated and than honest
    steps swing, with a p-value under alpha of there being none.

    Args:
        tolerance: drop of a quantity's mean that is let through: in percentage points of fractions, or in its own
            units; one for all, or by name.
        alpha: of all tests of one check.
        class_tolerance: drop in one class that is let through, in points; None tests no classes.
        points: whether quantities are fractions, and tolerances percentage points.

    Attributes:
        codes: the class of each sample, [n] from 0, where each class is tested by itself; `every_code` those of all.
        members: the class of each sample, also where none is; None without classes.
        class_sizes: samples of each class.
    """

    def __init__(
        self,
        tolerance: float | Mapping[str, float],
        alpha: float,
        *,
        class_tolerance: float | None = None,
        points: bool = True,
    ) -> None:
        self.tolerance = tolerance
        self.alpha = alpha
        self._class_tolerance = class_tolerance
        self._scale = 100.0 if points else 1.0
        self._words: Mapping[str, str] = {}
        self._labels: list[int] = []
        self._independent = False
        self.codes: Tensor | None = None
        self.every_code: Tensor | None = None
        self.members: Tensor | None = None
        self.class_sizes: list[int] = []

    def prepare(self, classes: Tensor | None, words: Mapping[str, str]) -> None:
        """Groups the samples by class, and takes the quantities' names for sentences."""
        self._words = words
        self.codes, self.every_code, self._labels = None, None, []
        self.members, self.class_sizes = None, []
        if classes is None:
            return
        labels, codes, counts = torch.unique(classes, return_inverse=True, return_counts=True)
        self.members, self.class_sizes = codes.reshape(-1), counts.tolist()
        if self._class_tolerance is not None:
            self.codes, self._labels = self.members, labels.tolist()
            self.every_code = torch.arange(len(labels), device=codes.device)

    def check_quantities(self, measured: Tensors) -> None:
        """Checks that tolerances by name are those of what is measured, and that not everything is let through.

        Raises:
            GuardError: otherwise.
        """
        names = quantities(measured)
        self._independent = independent(measured)
        if isinstance(self.tolerance, Mapping) and set(self.tolerance) != set(names):
            raise GuardError(
                f"got tolerances of {', '.join(self.tolerance)}, wanted those of what is measured: {', '.join(names)}"
            )
        for name in names:
            # In points nobody takes a hundred for one; in units of their own many take 1 for a point.
            if self._scale == 1 and measured[name].dtype == torch.bool and self.tolerance_of(name) >= 1:
                raise GuardError(
                    f"got a tolerance of {self.tolerance_of(name):g} for {name}, which is right or wrong, so that any "
                    "drop would pass; wanted a fraction of the samples: 0.01 for one point"
                )

    @property
    def labels(self) -> Sequence[int]:
        """The classes that are tested each by itself."""
        return self._labels

    def code_of(self, label: float) -> int:
        """The code of a class, by the label that evidence names."""
        return self._labels.index(int(label))

    @property
    def classes(self) -> int:
        """How many classes are tested each by itself."""
        return len(self._labels)

    @property
    def chance(self) -> float:
        """The accuracy of who knows nothing but which class is the most frequent; 0 without classes."""
        # Of one class alone nobody can do better than chance; then nothing is known of it.
        return max(self.class_sizes) / sum(self.class_sizes) if len(self.class_sizes) > 1 else 0.0

    @property
    def independent(self) -> bool:
        """Whether the quantities that were checked have nothing to do with each other."""
        return self._independent

    def tolerance_of(self, name: str) -> float:
        """The drop that is let through of a quantity.

        Raises:
            GuardError: when tolerances have names, and none this one.
        """
        if not isinstance(self.tolerance, Mapping):
            return self.tolerance
        if name not in self.tolerance:
            raise GuardError(f"got tolerances of {', '.join(self.tolerance)}, wanted one of {name} as well")
        return self.tolerance[name]

    def least(self, name: str, groups: int) -> np.ndarray:
        """What is tolerated in any case, overall and in each class, as a fraction or in the quantity's units."""
        least = np.full(groups, self.tolerance_of(name), dtype=np.float64)
        least[1:] = 0.0 if self._class_tolerance is None else self._class_tolerance
        return least / self._scale

    def alpha_of_one(self, quantities: int, *, classes: bool) -> float:
        """The alpha of one test on all samples."""
        return self.alpha * (0.5 if classes and self._class_tolerance is not None else 1.0) / (REFERENCES * quantities)

    def alpha_of_group(self, drops: PairedSums, group: int, names: int) -> float:
        """The alpha of one test on all samples (0) or in a class, by the groups that there are in the drops."""
        share = 1.0 if drops.groups == 1 else 0.5 if group == 0 else 0.5 / (drops.groups - 1)
        return share * self.alpha / (REFERENCES * names)

    @property
    def alpha_held_out(self) -> float:
        """The alpha of the one test on samples that are held out."""
        return self.alpha / REFERENCES

    def evidence(self, name: str, group: int, drop: float, limit: float, p: float, *, audited: bool) -> Evidence:
        """That a quantity has fallen.

        Args:
            name, group: what has fallen, of all samples (0) or in a class.
            drop, limit: by how much, and what may be lost, as a fraction or in the quantity's units.
            p: of there being no drop.
            audited: whether from the anchor, which an audit tells; else since the last check.
        """
        where = f", class {self._labels[group - 1]}," if group else ""
        drop, limit = self._scale * drop, self._scale * limit
        against = "the anchor" if audited else "the last check"
        return Evidence(
            f"{self._word(name)} on the probe{where} would fall by {self._amount(drop)} against {against}: "
            f"more than {limit:.3g} (p = {p:.1g})",
            {"drop": drop, "limit": limit, "p": p, "audited": float(audited)}
            | ({"class": float(self._labels[group - 1])} if group else {}),
            name,
            group,
        )

    def evidence_of_part(self, name: str, drop: float) -> Evidence:
        """That a part of a refused batch costs anything of a quantity."""
        drop = self._scale * drop
        said = f"a part of a refused batch would cost {self._amount(drop, 2)} of {self._word(name)}"
        return Evidence(said, {"drop": drop})

    def _word(self, name: str) -> str:
        return self._words.get(name, name)

    def _amount(self, drop: float, digits: int = 1) -> str:
        return f"{drop:.{digits}f} points" if self._scale != 1 else f"{drop:.3g}"
