"""A dress rehearsal: what an attacker who knows the guard tries out before he strikes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from taster.learner import Learner
from taster.types import Batch, StepRecord


@dataclass(frozen=True)
class Outcome:
    """What became of batches that were tried out.

    Attributes:
        committed: whether each was learned.
        accuracy: afterwards, on the attacker's own samples, in points.
    """

    committed: tuple[bool, ...]
    accuracy: float


class Rehearsal:
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

    def follow(self, victim: Learner, record: StepRecord | None = None) -> None:
        """Takes up the victim's state, and lets the copy of the guard learn what became of the last step."""
        state = victim.state_dict()
        self._learner.load_state_dict({**state, "guard": self._learner.guard.state_dict()})
        if record is not None:
            self._learner.guard.observe(record, self._learner.view())

    def outcome(self, *batches: Batch) -> Outcome:
        """Feeds the batches one after the other, and undoes it all."""
        learner = self._learner
        state = learner.state_dict()
        # The tensors of these are the live ones; snapshots of the history are never written to.
        state |= {part: copy.deepcopy(state[part]) for part in ("model", "optimizer", "guard")}
        devices = [batches[0].x.device] if batches[0].x.is_cuda else []
        try:
            with torch.random.fork_rng(devices):  # what dropout draws is the victim's
                records = [learner.feed(batch) for batch in batches]
            accuracy = learner.view().accuracy(self._held_out.x, self._held_out.y)
        finally:
            learner.load_state_dict(state)
        return Outcome(tuple(record.verdict.committed for record in records), accuracy)
