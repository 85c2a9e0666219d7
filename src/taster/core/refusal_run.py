"""How many updates were refused in a row."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from taster.errors import CheckpointError


@dataclass(frozen=True)
class RefusalRun:
    """Updates refused in a row. Those that were committed between two refusals and undone by the second do not end it:
    the learner is where it was.

    Attributes:
        length: of the run; 0 after an update that was committed.
        before: its length when it was ended by an update that may yet be undone.
        since: updates committed since the last refusal.
    """

    length: int = 0
    before: int = 0
    since: int = 0

    def committed(self) -> RefusalRun:
        """After an update that was committed."""
        return RefusalRun(0, self.before if self.since else self.length, self.since + 1)

    def refused(self, undone: int) -> RefusalRun:
        """After an update that was refused.

        Args:
            undone: steps before it that were undone with it.
        """
        lasting = undone < self.since
        return RefusalRun(1 if lasting else 1 + (self.before if self.since else self.length))

    def state(self) -> list[int]:
        """Whole numbers to save."""
        return list(astuple(self))

    @classmethod
    def from_state(cls, state: object) -> RefusalRun:
        """As it was saved.

        Raises:
            CheckpointError: if it is anything else.
        """
        if not isinstance(state, (list, tuple)) or len(state) != 3 or any(type(n) is not int or n < 0 for n in state):
            raise CheckpointError(f"got refusals {state!r}, wanted three whole numbers of at least 0")
        return cls(*state)
