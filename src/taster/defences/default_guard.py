"""The guard to begin with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import Batch
from taster.defences.gates.probe_gate import probe_gate
from taster.defences.retry import retry_low_score_half
from taster.utils.settings import validate_settings

_MAX_REWIND = 8


@validate_settings
def guard(
    probe: Batch,
    *,
    tolerance: Annotated[float, Field(ge=0, le=100)] = 1.0,
    check_every: Annotated[int, Field(ge=1)] = 1,
    probe_bfloat16: bool = False,
) -> Guard:
    """What we would put around a loop that we answer for: `probe_gate`, and `salvage` of what it rejects.

    Args:
        probe: labelled samples that nobody else can write to, never trained on: 500 or more.
        tolerance: points of accuracy that may be lost before it refuses.
        every: steps between checks; over 1 it costs less, and harm lives for so many steps.
        half: looks at the probe in bfloat16, which costs less where the hardware has it.

    What drifted away slowly is taken back up to eight steps, for which the learner keeps five snapshots.

    Source: taster's own; what was measured and left out is on the results page of the guard.
    """
    return probe_gate(
        probe, tolerance=tolerance, check_every=check_every, max_rewind=_MAX_REWIND, probe_bfloat16=probe_bfloat16
    ) + retry_low_score_half(probe)
