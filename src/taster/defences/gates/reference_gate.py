"""What gates on trusted samples share: when they look, what they remember, and how far they go back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from taster.core.guard import CandidateUpdate
from taster.core.types import COMMIT, Batch, StepRecord, Tensors, Verdict, reject, rewind
from taster.core.view import View
from taster.defences.rows import check_rows
from taster.errors import GuardError

_SIEVE = 4.0
"""Standard errors that a batch's loss may lie above the trusted samples'."""

_CHUNK = 256
"""Samples of the probe that go through the network at a time: more of them run slower, as they leave the caches."""


@dataclass(frozen=True)
class Evidence:
    """That an update did harm: what is said of it, and the numbers it rests on."""

    reason: str
    evidence: Mapping[str, float]


class QualityTest(Protocol):
    """How a gate looks at a model, and what it makes of two looks. Measured are tensors by name, a row a sample."""

    def prepare(self, probe: Batch) -> None:
        """Gets ready for these trusted samples."""
        ...

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """What the model's output says on the probe's samples."""
        ...

    def test_drop(self, before: Tensors, now: Tensors, when: str, *, alarmed: bool) -> Evidence | None:
        """That the model has got worse since `when`; no harm at all is tolerated when alarmed."""
        ...

    def any_drop(self, last: Tensors, now: Tensors) -> Evidence | None:
        """That the model does worse, evident or not: for what has no benefit of the doubt."""
        ...

    def improved(self, anchor: Tensors, now: Tensors) -> bool:
        """Whether the anchor moves up to the present."""
        ...

    def acceptable(self, anchor: Tensors, now: Tensors) -> bool:
        """Whether a state is good enough to go back to."""
        ...


@dataclass(frozen=True)
class CheckPolicy:
    """When a gate looks, and how far it goes.

    Attributes:
        every: steps between checks.
        sieve: whether it looks in between at what is strange.
        back: how many steps at most a drift away from the anchor is taken back; 0 refuses the update alone.
        alarm: steps for which a refusal alarms it.
        half: measures in bfloat16.
        patience: refusals in a row after which the learner lets go of its momentum; 0 for never.
    """

    check_every: int = 1
    check_on_loss_outlier: bool = True
    max_rewind: int = 0
    alert_steps: int = 20
    probe_bfloat16: bool = False
    reset_momentum_after: int = 2


class ReferenceGate:
    """Judges the model on trusted samples after every so many steps, against the last check and against an anchor.

    The anchor is the state at the first step; it moves up where the judge finds the model better, and never down.
    After a refusal it is alarmed for a while: it looks at every step, and its judge tolerates no harm.
    Between checks a sieve, which costs nothing, may decide to look at once: where a batch's loss is further above that
    of as many trusted samples at the last check than chance has it.

    Args:
        name: in records.
        judge: compares.
        probe: the trusted samples.
        watch: when it looks, and how far it goes.
    """

    def __init__(self, name: str, test: QualityTest, probe: Batch, policy: CheckPolicy) -> None:
        self.name = name
        self._test = test
        self._policy = policy
        self._probe = probe
        test.prepare(probe)
        self._anchor: Tensors | None = None
        # The states of the last checks by the steps taken before them, oldest first; the last one always stays.
        self._trail: dict[int, Tensors] = {}
        # Committed steps since the last check, and those of the alarm that are left.
        self._unchecked = 0
        self._alarmed = 0
        # What was measured last, and of which state: saves measuring it again in `observe`.
        self._fresh: tuple[object, Tensors] | None = None
        # The same of the state before the first step, whose index it goes by, for `observe` to start from.
        self._start: tuple[int, Tensors] | None = None

    @property
    def probe(self) -> Batch:
        """The trusted samples."""
        return self._probe

    @property
    def max_rewind(self) -> int:
        """How many steps it may go back."""
        return max(self._policy.check_every - 1, self._policy.max_rewind)

    @property
    def reset_momentum_after(self) -> int:
        """After how many refusals in a row the learner is to let go of its momentum."""
        return self._policy.reset_momentum_after

    @property
    def rewind_outcomes(self) -> int:
        """In how many ways a refusal can turn out."""
        return self._policy.max_rewind + 1

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up another probe. What the model does on it before the next step is the new anchor.

        The owner answers for the model as it stands: harm that came before is not held against what comes after.
        """
        self._probe = probe
        self._test.prepare(probe)
        self._anchor = self._fresh = self._start = None
        self._trail = {}
        self._unchecked = self._alarmed = 0

    def __call__(self, change: CandidateUpdate) -> Verdict:
        """Measures the probe after the update, where it is time."""
        if self._trail:
            checked, last = next(reversed(self._trail.items()))
            if checked > change.step:
                raise GuardError(
                    f"{self.name}: got step {change.step} of a learner after a check before step {checked}: this guard "
                    "has watched another learner; wanted a new guard, or this one's probe renewed (Guard.set_trusted_data)"
                )
        else:
            checked, last = change.step, self._measure(change.before)
            self._start = (change.step, last)
        alarmed = self._alarmed > 0
        if not (change.attempt or alarmed or self._due(change.step, checked) or self._strange(change, last)):
            return COMMIT
        anchor = last if self._anchor is None else self._anchor
        now = self._measure(change.after)
        found = self._test.test_drop(last, now, "the last check", alarmed=alarmed)
        worse = self._test.any_drop(last, now)
        if found is None and change.attempt:
            found = worse
        back_to = checked if self._unchecked else change.step
        if found is None and worse is not None:  # what makes the model better is not held to what came before it
            found = self._test.test_drop(anchor, now, "the anchor", alarmed=alarmed)
            if found is not None and self._policy.max_rewind:
                back_to = min(back_to, self._last_sound(change.step, anchor))
        if found is None:
            return COMMIT
        # No further than the snapshots reach: where others refused steps in between, the last check is longer ago.
        steps = change.step - max(back_to, min(change.before.snapshot_steps, default=back_to))
        return rewind(steps, found.reason, "", found.evidence) if steps else reject(found.reason, "", found.evidence)

    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers what was measured, and moves the anchor up where the model has got better."""
        if self._anchor is None:
            known = self._start is not None and self._start[0] == record.step
            self._anchor = self._start[1] if known and self._start else self._measure(view)
            self._trail = {record.step: self._anchor}
        # What is refused for the alarm's sake alone does not prolong it: honest steps would never get out of it.
        refused = record.verdict.stage == self.name and not record.verdict.evidence.get("alarmed")
        self._alarmed = self._policy.alert_steps if refused else max(0, self._alarmed - 1)
        if record.trusted and record.verdict.committed:
            self._anchor, self._trail, self._alarmed = self._measure(view), {}, 0
            self._keep(record.step + 1, self._anchor)
        elif record.verdict.steps:
            back_to = record.step - record.verdict.steps
            there = self._trail.get(back_to)
            self._trail = {taken: kept for taken, kept in self._trail.items() if taken < back_to}
            self._keep(record.step + 1, self._measure(view) if there is None else there)
        elif record.verdict.committed:
            if self._looked_at(view) or self._due(record.step, next(reversed(self._trail))):
                now = self._measure(view)
                self._keep(record.step + 1, now)
                if self._test.improved(self._anchor, now):
                    self._anchor = now
            else:
                self._unchecked += 1
        elif not self._unchecked:  # the state before the next step is still that of the last check
            self._keep(record.step + 1, self._trail.popitem()[1])

    def state_dict(self) -> dict[str, Any]:
        """What was measured at the anchor and at the last checks, and the steps since."""
        return {
            "anchor": self._anchor,
            "trail": [{"step": step, **kept} for step, kept in self._trail.items()],
            "unchecked": self._unchecked,
            "alarmed": self._alarmed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the same.

        Raises:
            CheckpointError: when they are of a probe of another size.
        """
        trail = {entry["step"]: {k: v for k, v in entry.items() if k != "step"} for entry in state["trail"]}
        for kept in [*trail.values(), *([] if state["anchor"] is None else [state["anchor"]])]:
            check_rows(kept.values(), self._probe)
        self._anchor = state["anchor"]
        self._trail, self._unchecked = trail, state["unchecked"]
        self._alarmed = state["alarmed"]

    def _strange(self, change: CandidateUpdate, last: Tensors) -> bool:
        """What the sieve says of a batch."""
        if change.loss is None or not self._policy.check_on_loss_outlier:
            return False
        losses, n = last["loss"].double(), len(change.batch)
        error = float(losses.std()) / n**0.5 if len(losses) > 1 else 0.0
        return not change.loss <= float(losses.mean()) + _SIEVE * error

    def _looked_at(self, view: View) -> bool:
        return self._fresh is not None and self._fresh[0] is view.moment

    def _due(self, step: int, checked: int) -> bool:
        return step + 1 - checked >= self._policy.check_every

    def _keep(self, step: int, found: Tensors) -> None:
        """Takes the state before this step for checked, and forgets those that are out of reach."""
        self._trail[step] = found
        self._unchecked = 0
        while len(self._trail) > 1 and next(iter(self._trail)) < step - max(self._policy.max_rewind, 1):
            del self._trail[next(iter(self._trail))]

    def _last_sound(self, step: int, anchor: Tensors) -> int:
        """The step of the newest sound state within reach; of the oldest within reach, where none is."""
        within = [(taken, kept) for taken, kept in self._trail.items() if step - taken <= self._policy.max_rewind]
        for taken, kept in reversed(within):
            if self._test.acceptable(anchor, kept):
                return taken
        return within[0][0] if within else step

    def _measure(self, view: View) -> Tensors:
        if self._fresh is None or self._fresh[0] is not view.moment:
            with (
                torch.no_grad(),
                torch.autocast(self._probe.x.device.type, torch.bfloat16, enabled=self._policy.probe_bfloat16),
            ):
                output = view.outputs(self._probe.x, chunk=_CHUNK)
                found = self._test.measure(output, self._probe.y)
                self._fresh = (view.moment, {**found, "loss": view.losses(output, self._probe.y)})
        return self._fresh[1]
