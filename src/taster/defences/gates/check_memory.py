"""What a gate on trusted samples remembers from step to step, and how that is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from taster.core.step_record import StepRecord
from taster.core.types import Tensors
from taster.defences.gates.anchor import EARLY, Anchor
from taster.defences.gates.check_record import LastCheck, Lost, Seen
from taster.defences.gates.quantities import quantities, watched
from taster.defences.gates.row_order import FIRST
from taster.defences.gates.swings import Swings, loaded_array, saved_array
from taster.stats.swing import Swing

_AUDIT_SHARE = 0.1
"""Of the work of a step, what audits may take on average; a sample learned from is three forward passes of one."""


@dataclass(eq=False)
class CheckMemory:
    """What a gate on trusted samples remembers from step to step.

    Attributes:
        anchor: the state that later ones are held to; None before the first step.
        checked: the last check; None before the first step.
        swings: how much honest steps swing.
        losses: of the batches that were committed, not their changes.
        block: the number of the order in which samples are looked at.
        unaudited: forward passes that audits may take by now.
        unchecked: committed steps since the last check.
        alerted: steps left of the alert.
        phase: what the model does.
        holdout_refusals: refusals by the samples that are held out.
        floor: what a model measured that was found below its anchor, with no way back; None for one that is not.
        lost: what steps have lost together since the last audit.
        struck: classes by which updates were refused, and for how many more steps first looks have more of them.
    """

    anchor: Anchor | None = None
    checked: LastCheck | None = None
    swings: Swings = field(default_factory=Swings)
    losses: Swing = field(default_factory=lambda: Swing.empty(1))
    block: int = 0
    unaudited: float = 0.0
    unchecked: int = 0
    alerted: int = 0
    phase: str = EARLY
    holdout_refusals: int = 0
    floor: Tensors | None = None
    lost: Lost = field(default_factory=Lost)
    struck: dict[int, int] = field(default_factory=dict)

    def forget_measured(self) -> None:
        """Forgets all but how much steps swing: for other trusted samples."""
        self.anchor = self.checked = self.floor = None
        self.unchecked = self.alerted = self.holdout_refusals = 0
        self.phase, self.struck = EARLY, {}
        self.was_audited()

    def count(self, record: StepRecord, *, refused: bool, alert_steps: int) -> None:
        """Counts a step, whatever became of it.

        Args:
            record: of the step.
            refused: whether by this gate.
            alert_steps: how long a refusal is remembered.
        """
        self.alerted = alert_steps if refused else max(0, self.alerted - 1)
        self.struck = {code: left - 1 for code, left in self.struck.items() if left > 1}
        self.unaudited += _AUDIT_SHARE * 3 * (record.samples or FIRST // 2)
        if refused and record.verdict.evidence.get("held_out"):
            self.holdout_refusals += 1

    def was_struck(self, code: int, alert_steps: int) -> None:
        """Counts a class as one by which an update was refused, for some steps."""
        self.struck.pop(code, None)
        if alert_steps:
            self.struck[code] = alert_steps

    def was_checked(self, step: int, measured: Tensors | None) -> None:
        """Counts the state before this step as checked."""
        self.checked = LastCheck(step, measured)
        self.unchecked = 0

    def was_audited(self) -> None:
        """Begins to count anew what audits may take, and what steps lose."""
        self.unaudited, self.lost = 0.0, Lost()

    def add_batch_loss(self, loss: float) -> None:
        """Of a whole batch that was committed."""
        self.losses = self.losses.with_change(np.array([loss]), np.zeros(1))

    def add_drops(self, seen: Seen) -> None:
        """Of a step that was committed."""
        for name in quantities(seen.sums):
            self.swings.append(name, seen.sums[name])
        self.lost = self.lost.plus(seen.sums[watched(seen.sums)[0]])

    def state_dict(self) -> dict[str, Any]:
        """What was measured at the anchor and at the last check, how much steps swing, and counts."""
        checked = self.checked
        return {
            "anchor": None if self.anchor is None else self.anchor.state_dict(),
            "checked": None if checked is None else {"step": checked.step, "measured": checked.measured},
            "swings": self.swings.state_dict(),
            "losses": saved_array(self.losses.changes),
            "block": self.block,
            "unaudited": self.unaudited,
            "unchecked": self.unchecked,
            "alerted": self.alerted,
            "phase": self.phase,
            "holdout_refusals": self.holdout_refusals,
            "floor": self.floor,
            "lost": [self.lost.drop, self.lost.variance],
            "struck": {str(code): left for code, left in self.struck.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> CheckMemory:
        """As it was saved."""
        anchor, checked, swings = state["anchor"], state["checked"], Swings()
        swings.load_state_dict(state["swings"])
        return cls(
            anchor=None if anchor is None else Anchor.from_state(anchor),
            checked=None if checked is None else LastCheck(checked["step"], checked["measured"]),
            swings=swings,
            losses=Swing(loaded_array(state["losses"])),
            block=state["block"],
            unaudited=state["unaudited"],
            unchecked=state["unchecked"],
            alerted=state["alerted"],
            phase=state["phase"],
            holdout_refusals=state["holdout_refusals"],
            floor=state["floor"],
            lost=Lost(*state["lost"]),
            struck={int(code): left for code, left in state["struck"].items()},
        )

    @property
    def classes_struck(self) -> list[int]:
        """The classes by which updates were refused lately, the last one first."""
        return sorted(self.struck, key=lambda code: (-self.struck[code], code))

    @property
    def measured(self) -> list[Tensors]:
        """All that was measured of the trusted samples and is remembered."""
        found = [
            None if self.anchor is None else self.anchor.measured,
            None if self.checked is None else self.checked.measured,
            self.floor,
        ]
        return [measured for measured in found if measured is not None]
