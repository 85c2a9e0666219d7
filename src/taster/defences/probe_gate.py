"""A gate on trusted data: an update that costs accuracy on it is undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taster.guard import Change, Guard
from taster.paired import accuracy_fell, mean_fell
from taster.settings import checked
from taster.types import COMMIT, Batch, StepRecord, Verdict, reject, rewind
from taster.view import View

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

    Source: taster's own. Rejection on a validation set goes back to Nelson et al. 2008 ("reject on negative impact");
        the tests are those of `taster.paired`.
    """
    return Guard(gates=[ProbeGate(probe, tolerance, level, class_tolerance, every)])


@dataclass(frozen=True)
class Measured:
    """How a model does on each sample of the probe, [n] each: the probability of the true class, and right or wrong."""

    probability: Tensor
    right: Tensor


class ProbeGate:
    """The gate of `probe_gate`, with what it remembers: the probe's results at the anchor and at the last check."""

    name = "probe_gate"

    def __init__(self, probe: Batch, tolerance: float, level: float, class_tolerance: float | None, every: int) -> None:
        self._probe = probe
        self._level = level
        self._every = every
        self._groups = _groups(probe, tolerance, class_tolerance)
        self._anchor: Measured | None = None
        self._last: Measured | None = None
        # What was measured last, and of which state: saves measuring it again in `observe`.
        self._fresh: tuple[object, Measured] | None = None
        # The same of the state before the first step, whose index it goes by, for `observe` to start from.
        self._start: tuple[int, Measured] | None = None

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
        for what, when, fell, before, now in tests:
            for group in self._groups:
                then, there = before[group.mask], now[group.mask]
                p = fell(then, there, group.tolerance / 100)
                if p < group.share * self._level / len(tests):
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
        """Takes up the same."""
        self._anchor, self._last = (
            None if state[name] is None else Measured(**state[name]) for name in ("anchor", "last")
        )

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
