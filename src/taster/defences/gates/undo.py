"""How far a refusal goes back."""

from __future__ import annotations

from collections.abc import Mapping

from taster.core.guard import CandidateUpdate
from taster.core.types import Tensors
from taster.core.verdict import Verdict, reject, rewind
from taster.defences.gates.probe_measurement import nonfinite


def undo(change: CandidateUpdate, back_to: int, reason: str, evidence: Mapping[str, float] | None = None) -> Verdict:
    """The verdict that goes back to the state before a step, but no further than the snapshots reach."""
    steps = change.step - max(back_to, min(change.before.snapshot_steps, default=change.step))
    return rewind(steps, reason, "", evidence) if steps else reject(reason, "", evidence)


def undo_nonfinite(change: CandidateUpdate, back_to: int, measured: Tensors) -> Verdict | None:
    """The same of an update after which a measurement is NaN or infinite; None where there is none."""
    found = nonfinite(measured)
    return None if found is None else undo(change, back_to, f"after the update {found}")
