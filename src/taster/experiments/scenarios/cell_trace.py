"""The accuracies and records of a cell, step by step, and the row of the results table made from them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from taster.attacks import Observation, Schedule
from taster.core.guard import Guard
from taster.core.step_record import Phase, StepRecord
from taster.data import Role
from taster.stats.detection_bound import HasDetectionBound


class CellTrace:
    """Asks the schedule for phases, measures accuracies, and keeps the records.

    Args:
        accuracy: of the learner at present on the split of a role, in %.
        schedule: of the attack's phases.
        eval_every: steps between measurements on the test split, which neither attack nor defence sees.
    """

    def __init__(self, accuracy: Callable[[Role], float], schedule: Schedule, eval_every: int) -> None:
        self._began = time.perf_counter()
        self._accuracy = accuracy
        self._schedule = schedule
        self._test_every = eval_every
        self._tested = [accuracy("test")]
        self._before = self._tested[0]
        self._observations = [Observation(None, accuracy("monitor"))]
        self.records: list[StepRecord] = []

    def next_phase(self) -> Phase:
        """The phase of the next step. Before the trigger's, the test accuracy is measured."""
        phase = self._schedule(self._observations)
        if phase is Phase.TRIGGER:
            self._before = self._accuracy("test")
            self._tested.append(self._before)
        return phase

    def add(self, record: StepRecord) -> dict[str, Any]:
        """Adds a step; returns the accuracies after it, under the names that steps.jsonl has for them."""
        shown = record.phase is Phase.TRIGGER or len(self.records) % self._test_every == 0
        self.records.append(record)
        self._observations.append(Observation(record, self._accuracy("monitor")))
        if shown:
            self._tested.append(self._accuracy("test"))
        return {
            "monitor_accuracy": self._observations[-1].accuracy,
            "test_accuracy": self._tested[-1] if shown else None,
        }

    def row(self, guard: Guard) -> dict[str, Any]:
        """The columns that all scenarios have in results.json, after the trigger's step."""
        return {
            "acc_start": self._tested[0],
            "acc_before": self._before,
            "acc_after": self._tested[-1],
            "drop": self._tested[-1] - self._before,
            "worst_step": _worst_step(self._tested),
            "steps": sum(r.phase is Phase.ACCUMULATE for r in self.records),
            "stopped_by": self._schedule.stopped_by(self._observations[:-1]),
            "rejected": sum(not r.verdict.committed for r in self.records),
            "screened": _screened(self.records),
            "detection_bound": _detection_bound(guard, self.records),
            "seconds": time.perf_counter() - self._began,
        }

    def monitored(self) -> dict[str, float]:
        """Accuracies on the monitor split at the start, before the trigger and after it, in %."""
        seen = self._observations
        return {
            "monitor_start": seen[0].accuracy,
            "monitor_before": seen[-2].accuracy,
            "monitor_after": seen[-1].accuracy,
        }


def step_cost(records: list[StepRecord]) -> float | None:
    """Seconds of a defended step over those of a plain one (gradient and update), medians over the same steps; None
    where no step was made."""
    made = [r.seconds for r in records if "update" in r.seconds]
    if not made:
        return None
    plain = statistics.median(s["gradient"] + s["update"] for s in made)
    return statistics.median(s["total"] for s in made) / plain


def _worst_step(tested: list[float]) -> float:
    """The greatest fall of test accuracy between two measurements, in points and negative; 0 where it never fell."""
    return min(0.0, *(now - then for then, now in pairwise(tested)))


def _screened(records: list[StepRecord]) -> float | None:
    """The share of the accumulative phase's samples that screens dropped or corrected, in %; None without one."""
    steps = [r for r in records if r.phase is Phase.ACCUMULATE]
    return 100 * sum(r.dropped + r.corrected for r in steps) / sum(r.samples for r in steps) if steps else None


def _detection_bound(guard: Guard, records: list[StepRecord]) -> dict[str, Any] | None:
    """The bound of the first gate that states one, for all checks and refusals of the run."""
    checks = sum(record.attempts for record in records)
    committed = sum(record.verdict.committed for record in records if record.attempts)
    for gate in guard.gates:
        if checks and isinstance(gate, HasDetectionBound):
            return asdict(gate.detection_bound(checks=checks, refusals=checks - committed))
    return None
