"""What stages that compare a score with a threshold share."""

from __future__ import annotations

from typing import Any

from taster.core.batch import Batch
from taster.core.guard import ChecksModel, Stateful, UsesTrustedData
from taster.core.step_record import StepRecord
from taster.core.view import View
from taster.scores.base import Score, split_in_half
from taster.scores.thresholds import Threshold


class ScoreThresholdStage:
    """A stage with a score and a threshold, which keeps whatever state these two have.

    Args:
        score: how suspicious each sample is.
        threshold: the value above which a score counts.
    """

    def __init__(self, score: Score, threshold: Threshold) -> None:
        self.score = score
        self.threshold = threshold

    def observe(self, record: StepRecord, view: View) -> None:
        """Passes the record on: to the score first, as the threshold may be estimated from it."""
        for part in self._stateful_parts().values():
            part.observe(record, view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Passes the new samples on: half to each of score and threshold if both use some."""
        parts = [part for part in (self.score, self.threshold) if isinstance(part, UsesTrustedData)]
        for part, clean in zip(parts, split_in_half(probe) if len(parts) == 2 else (probe,), strict=False):
            part.set_trusted_data(clean)

    def check_model(self, view: View) -> None:
        """Checks that the model takes the trusted samples of score and threshold."""
        for part in (self.score, self.threshold):
            if isinstance(part, ChecksModel):
                part.check_model(view)

    def state_dict(self) -> dict[str, Any]:
        """The state of score and threshold, of those that have any."""
        return {name: part.state_dict() for name, part in self._stateful_parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of score and threshold."""
        for name, part in self._stateful_parts().items():
            part.load_state_dict(state[name])

    def _stateful_parts(self) -> dict[str, Stateful]:
        parts = {"score": self.score, "threshold": self.threshold}
        return {name: part for name, part in parts.items() if isinstance(part, Stateful)}
