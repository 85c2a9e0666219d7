"""What one check leaves behind: of the state that it checked, of the update that it saw, and of what was lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from taster.core.types import Tensors
from taster.stats.paired_sums import PairedSums

_LOST = 2.5
"""Standard errors of the drops of several steps from which on they are looked into."""


@dataclass(frozen=True, eq=False)
class LastCheck:
    """The state that was checked last.

    Attributes:
        step: the one before which the model had it.
        measured: of it; None where the next check can measure the state itself.
    """

    step: int
    measured: Tensors | None


@dataclass(frozen=True, eq=False)
class Seen:
    """What a check has seen of an update.

    Attributes:
        version: of the state after it.
        sums: drops since the last check, of the samples looked at.
        looks: how many looks it took.
        fallen: drops from the anchor of all samples that are not held out, where they were audited.
        doubted: whether an audit was made because what was looked at was reason to.
        below: whether the model is below its anchor and there is no way back.
        gain: by how much the loss of the first samples looked at is lower than at the anchor; None without a loss.
    """

    version: object
    sums: dict[str, PairedSums]
    looks: int = 1
    fallen: dict[str, PairedSums] | None = None
    doubted: bool = False
    below: bool = False
    gain: float | None = None

    @property
    def long(self) -> bool:
        """Whether the samples that the check began with gave reason to look further."""
        return self.looks > 1 or self.doubted


@dataclass(frozen=True)
class Lost:
    """What committed steps have lost together since they last had lost nothing, as far as looks can tell.

    Attributes:
        drop: the sum of their drops.
        variance: of it.
    """

    drop: float = 0.0
    variance: float = 0.0

    def plus(self, sums: PairedSums) -> Lost:
        """With one more step."""
        drop, error = self.drop + sums.drop(), sums.error()
        return Lost(drop, self.variance + error**2) if drop > 0 and math.isfinite(error) else Lost()

    def exceeds(self, limit: float) -> bool:
        """Whether it is more than a limit, and more than chance."""
        return self.drop > max(limit, _LOST * math.sqrt(self.variance))
