"""When a gate on trusted samples checks, and how far it goes back."""

from __future__ import annotations

from dataclasses import dataclass

from taster.core.guard import CandidateUpdate
from taster.defences.gates.check_record import LastCheck
from taster.defences.gates.loss_outlier import is_outlier_of_probe


@dataclass(frozen=True)
class CheckPolicy:
    """When a gate checks, and how far it goes back.

    Attributes:
        check_every: steps between checks.
        check_on_loss_outlier: whether it checks at once after a batch with an outlying loss.
        max_rewind: the maximum number of steps by which a drift from the anchor is undone; 0 undoes the update alone.
        alert_steps: steps after a refusal in which every step is checked.
        reset_momentum_after: consecutive refusals after which the learner zeros the momentum; 0 for never.
        seed: of the order in which samples are looked at; None takes one that nobody knows.
        young: whether the model has only begun to learn, though it does better than chance.
    """

    check_every: int = 1
    check_on_loss_outlier: bool = True
    max_rewind: int = 0
    alert_steps: int = 20
    reset_momentum_after: int = 2
    seed: int | None = None
    young: bool = False

    @property
    def reach(self) -> int:
        """The maximum number of steps that a refusal goes back: to the last check, or as far as a drift is undone."""
        return max(self.check_every - 1, self.max_rewind)

    @property
    def keeps_measured(self) -> bool:
        """Whether what was measured at a check is kept: not where the next check can measure the state itself."""
        return self.check_every > 1

    def is_due(self, change: CandidateUpdate, checked: LastCheck, *, alerted: bool) -> bool:
        """Whether an update is checked.

        Args:
            change: the update; a part of a refused batch is always checked.
            checked: the last check.
            alerted: whether a refusal has made every step one that is checked.
        """
        if change.attempt or alerted or change.step + 1 - checked.step >= self.check_every:
            return True
        known = checked.measured
        return self.check_on_loss_outlier and known is not None and is_outlier_of_probe(change, known.get("loss"))
