"""The recommended guard."""

from __future__ import annotations

from taster.core.guard import Guard
from taster.core.types import Batch
from taster.defences.gates.probe_gate import probe_gate
from taster.defences.retry import retry_low_score_half
from taster.utils.setting_types import Points, PositiveCount
from taster.utils.settings import validate_settings

_MAX_REWIND = 8


@validate_settings
def guard(
    probe: Batch, *, tolerance: Points = 1.0, check_every: PositiveCount = 1, probe_bfloat16: bool = False
) -> Guard:
    """The recommended guard: `probe_gate`, and `retry_low_score_half` for batches that it rejects.

    Args:
        probe: labelled samples that nobody else can write to and that are never trained on: 500 or more.
        tolerance: drop in accuracy that is let through, in percentage points.
        check_every: steps between checks; more than 1 costs less, and harm lasts for up to that many steps.
        probe_bfloat16: runs the model on the probe in bfloat16, which costs less on hardware that supports it.

    A slow drift is undone by going back up to eight steps, for which the learner keeps five snapshots.

    Source: taster's own; the results page of the guard shows what was measured, and what was left out.
    """
    gate = probe_gate(
        probe,
        tolerance=tolerance,
        check_every=check_every,
        max_rewind=_MAX_REWIND,
        probe_bfloat16=probe_bfloat16,
    )
    return gate + retry_low_score_half(probe)
