"""What became of a step, and in which phase of an attack it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from taster.core.verdict import Verdict


class Phase(StrEnum):
    """Phase of an attack: waiting, preparing the model, or striking."""

    DORMANT = "dormant"
    ACCUMULATE = "accumulate"
    TRIGGER = "trigger"


@dataclass(frozen=True)
class StepRecord:
    """Record of one step.

    Attributes:
        step: index of the call, from 0; it counts refused steps too.
        samples: number of samples in the batch; `dropped` and `corrected` count what the screens did with them.
        loss: training loss of the screened samples before the update; None without a forward pass.
        verdict: outcome of the update, with the stage that decided and its reason.
        gradient_norm_before: l2 norm over all parameters before the transforms; None without a backward pass.
        gradient_norm_after: the same after the transforms.
        attempts: number of updates that were made and judged; more than one if part of a batch was tried again.
        trusted: whether screens and gates were skipped, because the owner vouches for the batch.
        phase: the attack's phase, known to the harness that stages the attack and never to the guard.
        seconds: wall time of each stage by name, and "total".
    """

    step: int
    samples: int
    loss: float | None
    verdict: Verdict
    dropped: int = 0
    corrected: int = 0
    gradient_norm_before: float | None = None
    gradient_norm_after: float | None = None
    attempts: int = 0
    trusted: bool = False
    phase: Phase | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary. Values that are not finite become None."""
        return {
            "step": self.step,
            "phase": None if self.phase is None else self.phase.value,
            "samples": self.samples,
            "dropped": self.dropped,
            "corrected": self.corrected,
            "loss": _finite(self.loss),
            "attempts": self.attempts,
            "verdict": self.verdict.action.name,
            "rewound": self.verdict.steps,
            "stage": self.verdict.stage,
            "reason": self.verdict.reason,
            "evidence": {name: _finite(value) for name, value in self.verdict.evidence.items()},
            "gradient_norm_before": _finite(self.gradient_norm_before),
            "gradient_norm_after": _finite(self.gradient_norm_after),
            "seconds": dict(self.seconds),
        }


def _finite(number: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return number if number is not None and math.isfinite(number) else None
