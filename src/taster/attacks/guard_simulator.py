"""A dress rehearsal: what an attacker who knows the guard tries out before he strikes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from taster.core.backup import StateBackup
from taster.core.backward import online_gradient
from taster.core.batch import Batch
from taster.core.learner import Learner
from taster.core.step_record import StepRecord
from taster.utils.seeds import kept_random_numbers


@dataclass(frozen=True)
class SimulatedOutcome:
    """What became of batches that were tried out.

    Attributes:
        committed: whether each was learned as it came; a part of it that is learned after a refusal does not count.
        accuracy: on the attacker's own samples, in points, after those batches that harm is measured after.
        probability: the mean probability of the true class, on the same samples, in points.
    """

    committed: tuple[bool, ...]
    accuracy: float
    probability: float


class GuardSimulator:
    """A learner of the attacker's own: the victim as it stands, behind a copy of its guard.

    The copy has the guard's code and settings, and trusted samples of the attacker's own in the place of the guard's,
    which he does not have. Its state is its own: it has watched the victim's steps on those samples.

    Args:
        learner: built as the victim is.
        held_out: what harm is measured on; other samples than the copy of the guard has.
    """

    def __init__(self, learner: Learner, held_out: Batch) -> None:
        self._learner = learner
        self._held_out = held_out
        self._backup = StateBackup(learner.state.module, learner.optimizers, learner.state.scaler)

    def sync(self, victim: Learner, record: StepRecord | None = None) -> None:
        """Loads the victim's state, and lets the copy of the guard observe the last step."""
        learner = self._learner
        learner.load_state_dict({**victim.state_dict(), "guard": learner.guard.state_dict(), "snapshots": None})
        # Shared, as snapshots are never written to: a copy for every candidate would be many times the model.
        learner.state.snapshots = None if victim.snapshots is None else victim.snapshots.shallow_copy()
        if record is not None:
            learner.guard.observe(record, learner.view())

    def simulate(self, *batches: Batch, afterwards: Sequence[Batch] = ()) -> SimulatedOutcome:
        """Feeds the batches one after the other, and undoes it all.

        Args:
            batches: the harm is measured after these.
            afterwards: others that are fed after them, to see whether the harm lasts.
        """
        learner, state = self._learner, self._learner.state
        snapshots, state.snapshots = state.snapshots, None
        before = copy.deepcopy(learner.guard_state_dict())
        self._backup.save()
        try:
            state.snapshots = None if snapshots is None else snapshots.shallow_copy()
            with kept_random_numbers(batches[0].x.device):  # what dropout draws is the victim's
                records = [self._step(batch) for batch in batches]
                harm = self.measure()
                records += [self._step(batch) for batch in afterwards]
        finally:
            self._backup.restore()
            state.snapshots = None
            learner.load_guard_state_dict(before)
            state.snapshots = snapshots
        return replace(harm, committed=tuple(record.verdict.committed and record.attempts <= 1 for record in records))

    def measure(self) -> SimulatedOutcome:
        """How the victim does now, on the attacker's own samples, without any batch."""
        x, y = self._held_out.x, self._held_out.y
        outputs = self._learner.view().outputs(x).float()
        right = int((outputs.argmax(1) == y).sum())
        sure = float(outputs.softmax(1).gather(1, y[:, None]).mean())
        return SimulatedOutcome((), 100.0 * right / len(x), 100.0 * sure)

    def _step(self, batch: Batch) -> StepRecord:
        """One step without an alarm: it is none of the victim's."""
        return self._learner.run(batch, online_gradient, alarm=False)
