"""How far a refusal goes back."""

from __future__ import annotations

from collections.abc import Mapping

from taster.core.guard import CandidateUpdate
from taster.core.types import Verdict, reject, rewind


def undo(change: CandidateUpdate, back_to: int, reason: str, evidence: Mapping[str, float] | None = None) -> Verdict:
    """The verdict that goes back to the state before a step, but no further than the snapshots reach."""
    steps = change.step - max(back_to, min(change.before.snapshot_steps, default=change.step))
    return rewind(steps, reason, "", evidence) if steps else reject(reason, "", evidence)
