"""A gate on trusted data: an update that costs accuracy on it is undone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taster.errors import CheckpointError
from taster.paired import accuracy_fell, mean_fell
from taster.promise import Promise, promise
from taster.settings import checked
from taster.stages import Change, Guard
from taster.types import COMMIT, Batch, StepRecord, Verdict, reject, rewind
from taster.view import View

_log = logging.getLogger(__name__)

_TESTS = 3
_POOR = 10
"""Times its tolerance (or a point) that a probe's promise may be before it is told that it is small."""

_CHUNK = 1000
"""Samples of the probe that go through the network at a time."""


@checked
def probe_gate(
    probe: Batch,
    *,
    tolerance: Annotated[float, Field(ge=0, le=100)] = 1.0,
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    class_tolerance: Annotated[float, Field(ge=0, le=100)] | None = 5.0,
    every: Annotated[int, Field(ge=1)] = 1,
) -> Guard:
    """Refuses an update for which there is evidence that it costs more than a tolerance on trusted samples.

    The model before and after classifies the same samples, and the tests are paired, so that the noise of a small probe
    does not veto honest updates. Three are made:

        against the last check   the mean probability of the true class, which tells harm from few samples
        against the last check   accuracy
        against the anchor       accuracy, so that harm cannot add up in steps too small to see

    The anchor is the state at the first step; it moves up where a test of that kind says, that the accuracy
    has grown, and never down. Each test is made overall and, with half its level, class by class, so that harm to one
    class cannot hide in the mean.

    Args:
        probe: labelled samples that nobody else can write to; the more there are, the less harm passes.
        tolerance: fall that is let pass, in points.
        level: chance, at a check, of refusing what costs as much as the tolerances; what costs less is refused more
            seldom, so that it can be large.
        class_tolerance: the same for one class, in points; None looks at no classes.
        every: steps between checks; the cost falls with it, and what is refused goes back as many steps, for which the
            learner needs a History.

    A probe that is small for its tolerance is told by a warning: `ProbeGate.promise` says what it can promise, and
    `Guard.renew` gives the gate a new one as the world drifts.

    Source: taster's own. Rejection on a validation set goes back to Nelson et al. 2008 ("reject on negative impact");
        the tests are those of `taster.paired`.
    """
    gate = ProbeGate(probe, tolerance, level, class_tolerance, every)
    fall = gate.promise().fall
    if fall > _POOR * max(tolerance, 1.0):
        _log.warning(
            "a probe of %d samples tells a fall of %.0f points from chance and none that is smaller, though %g were "
            "asked for; give it more samples (taster.promise says how many)",
            len(probe),
            fall,
            tolerance,
        )
    return Guard(gates=[gate])


@dataclass(frozen=True)
class Measured:
    """How a model does on each sample of the probe, [n] each: the probability of the true class, and right or wrong."""

    probability: Tensor
    right: Tensor


class ProbeGate:
    """The gate of `probe_gate`, with what it remembers: the probe's results at the anchor and at the last check."""

    name = "probe_gate"

    def __init__(self, probe: Batch, tolerance: float, level: float, class_tolerance: float | None, every: int) -> None:
        self._level = level
        self._every = every
        self._tolerance = tolerance
        self._class_tolerance = class_tolerance
        self._take(probe)
        self._anchor: Measured | None = None
        self._last: Measured | None = None
        # What was measured last, and of which state: saves measuring it again in `observe`.
        self._fresh: tuple[object, Measured] | None = None
        # The same of the state before the first step, whose index it goes by, for `observe` to start from.
        self._start: tuple[int, Measured] | None = None

    @property
    def rewinds(self) -> int:
        """How many steps it may go back."""
        return self._every - 1

    def promise(self, *, checks: int = 1, refusals: int = 0, confidence: float = 95.0, churn: float = 5.0) -> Promise:
        """How far accuracy can have fallen below the anchor's without the gate's noticing; see `taster.promise`.

        It counts on the one test against the anchor alone; the others find harm that this one does not.
        """
        return promise(
            len(self._probe),
            tolerance=self._tolerance,
            level=self._groups[0].share * self._level / _TESTS,
            checks=checks,
            refusals=refusals,
            confidence=confidence,
            churn=churn,
        )

    def renew(self, probe: Batch) -> None:
        """Takes up another probe. What the model does on it before the next step is the new anchor.

        The owner answers for the model as it stands: harm that came before is not held against what comes after.
        """
        self._take(probe)
        self._anchor = self._last = self._fresh = self._start = None

    def __call__(self, change: Change) -> Verdict:
        """Measures the probe after the update, where it is time."""
        last = self._last
        if last is None:
            last = self._measure(change.before)
            self._start = (change.step, last)
        if not self._due(change.step):
            return COMMIT
        anchor = last if self._anchor is None else self._anchor
        after = self._measure(change.after)
        tests = (
            ("probability of the true class", "the last check", mean_fell, last.probability, after.probability),
            ("accuracy", "the last check", accuracy_fell, last.right, after.right),
            ("accuracy", "the anchor", accuracy_fell, anchor.right, after.right),
        )
        assert len(tests) == _TESTS
        for what, when, fell, before, now in tests:
            for group in self._groups:
                then, there = before[group.mask], now[group.mask]
                p = fell(then, there, group.tolerance / 100)
                if p < group.share * self._level / _TESTS:
                    fall = 100 * float(then.float().mean() - there.float().mean())
                    reason = (
                        f"{what} on the probe{group.name} would fall by {fall:.1f} points against {when}: more than "
                        f"{group.tolerance:g} (p = {p:.1g})"
                    )
                    # A rewind counts the steps before this one.
                    return reject(reason) if self._every == 1 else rewind(self._every - 1, reason)
        return COMMIT

    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers the results, and moves the anchor up where the model has got better."""
        if self._anchor is None:
            known = self._start is not None and self._start[0] == record.step
            self._anchor = self._last = self._start[1] if known and self._start else self._measure(view)
        if self._due(record.step) and record.verdict.committed:
            self._last = self._measure(view)
            if accuracy_fell(self._last.right, self._anchor.right) < self._level / len(self._groups):
                self._anchor = self._last

    def state_dict(self) -> dict[str, Any]:
        """The results at the anchor and at the last check."""
        return {
            name: None if kept is None else {"probability": kept.probability, "right": kept.right}
            for name, kept in (("anchor", self._anchor), ("last", self._last))
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the same.

        Raises:
            CheckpointError: when they are of a probe of another size.
        """
        for kept in (state["anchor"], state["last"]):
            if kept is not None and len(kept["right"]) != len(self._probe):
                raise CheckpointError(
                    f"got the state of a gate with a probe of {len(kept['right'])} samples, wanted {len(self._probe)}: "
                    "build the guard with the probe that it had"
                )
        self._anchor, self._last = (
            None if state[name] is None else Measured(**state[name]) for name in ("anchor", "last")
        )

    def _take(self, probe: Batch) -> None:
        self._probe = probe
        self._groups = _groups(probe, self._tolerance, self._class_tolerance)

    def _due(self, step: int) -> bool:
        return (step + 1) % self._every == 0

    def _measure(self, view: View) -> Measured:
        if self._fresh is None or self._fresh[0] is not view.moment:
            with torch.no_grad():
                logits = torch.cat([view.forward(x) for x in torch.split(self._probe.x, _CHUNK)])
            own = logits.softmax(1).gather(1, self._probe.y[:, None]).squeeze(1)
            self._fresh = (view.moment, Measured(own, logits.argmax(1) == self._probe.y))
        return self._fresh[1]


@dataclass(frozen=True)
class _Group:
    """Samples that are tested together: a share of the level is theirs."""

    name: str
    mask: Tensor
    tolerance: float
    share: float


def _groups(probe: Batch, tolerance: float, class_tolerance: float | None) -> list[_Group]:
    everything = torch.ones_like(probe.y, dtype=torch.bool)
    if class_tolerance is None:
        return [_Group("", everything, tolerance, 1.0)]
    labels = torch.unique(probe.y).tolist()
    whole = _Group("", everything, tolerance, 0.5)
    classes = [_Group(f", class {n},", probe.y == n, class_tolerance, 0.5 / len(labels)) for n in labels]
    return [whole, *classes]
