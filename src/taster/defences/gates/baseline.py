"""What an update is compared with when it is judged."""

from __future__ import annotations

from dataclasses import dataclass

from taster.core.guard import CandidateUpdate
from taster.core.types import Tensors
from taster.defences.gates.anchor import Anchor
from taster.defences.gates.check_memory import CheckMemory
from taster.defences.gates.check_record import LastCheck, Lost
from taster.defences.gates.loss_outlier import is_outlier_of_batches
from taster.defences.gates.swings import Swings


@dataclass(frozen=True, eq=False)
class Baseline:
    """What an update is compared with when it is judged.

    Attributes:
        anchor: the state that all are held to.
        checked: what was measured at the last check; None where that was of the state before the update.
        last_good: the step before which the model was as it was checked last.
        swings: how much honest steps swing.
        lost: what steps have lost together since the last audit.
        floor: what a model measured that was found below its anchor, with no way back; None for one that is not.
        suspect: whether the batch is an outlier among the last ones by its loss.
    """

    anchor: Anchor
    checked: Tensors | None
    last_good: int
    swings: Swings
    lost: Lost
    floor: Tensors | None
    suspect: bool

    @classmethod
    def of(cls, change: CandidateUpdate, anchor: Anchor, checked: LastCheck, memory: CheckMemory) -> Baseline:
        """Of an update, from what a gate remembers; the anchor and the last check may not be in there yet."""
        return cls(
            anchor,
            checked.measured,
            checked.step if memory.unchecked else change.step,
            memory.swings,
            memory.lost,
            memory.floor,
            is_outlier_of_batches(change, memory.losses),
        )

    @property
    def below(self) -> bool:
        """Whether the model was found below its anchor, with no way back."""
        return self.floor is not None
