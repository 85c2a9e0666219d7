"""The one path that every update takes. Online and federated learning differ in `item` and `reduce`, not here."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from taster.core.guard import ScreenedBatch, CandidateUpdate, Guard, Screen, T, GradientTransform, stage_name
from taster.core.param_vectors import finite_rows
from taster.core.types import COMMIT, Action, Batch, StepRecord, Tensors, Verdict, reject, most_severe
from taster.core.view import View
from taster.errors import GuardError, SmallBatchError

if TYPE_CHECKING:
    from taster.core.learner import Learner

GradientFn = Callable[[ScreenedBatch[T], "Learner"], tuple[Tensors, float | None]]
"""From what was admitted to one gradient, and the loss where there is one: a backward pass online, an aggregation in
federated learning."""


@dataclass(frozen=True)
class Attempt:
    """What became of one update, made and settled; the norms are those of `StepRecord`."""

    verdict: Verdict
    loss: float | None = None
    norm_before: float | None = None
    norm_after: float | None = None
    by_gate: bool = False


def guarded_step(learner: Learner, item: T, guard: Guard, reduce: GradientFn[T]) -> StepRecord:
    """Draw, screens, gradient, transforms, update, gates, and the verdict carried out; what a gate has rejected, again
    without the part that the salvaging screens take out of it."""
    clock = Clock()
    admitted = admit(item, guard.screens, learner.view(), clock)
    attempts = 0
    if admitted.empty:
        made = Attempt(reject(admitted.reason, admitted.stage))
    else:
        made = refused = attempt(learner, admitted, guard, reduce, clock)
        attempts, part = int(made.by_gate), admitted
        while made.by_gate and made.verdict.action is Action.REJECT and guard.salvage:
            smaller = run_screens(part, guard.salvage, learner.view(), clock)
            if smaller.empty or len(smaller.batch) == len(part.batch):
                break
            part = smaller
            made = attempt(learner, part, guard, reduce, clock, attempts)
            attempts += 1
        if made is not refused and made.verdict.committed:
            admitted = part
            said = f"learned {len(part.batch)} of {len(item)} samples: {refused.verdict.reason}"
            made = replace(made, verdict=replace(refused.verdict, action=Action.COMMIT, reason=said))
        else:
            made = refused  # what is told is why the batch was refused, and not the last part of it
    record = StepRecord(
        step=learner.steps,
        samples=len(item),
        loss=made.loss,
        verdict=made.verdict,
        dropped=admitted.dropped,
        corrected=admitted.corrected,
        gradient_norm_before=made.norm_before,
        gradient_norm_after=made.norm_after,
        attempts=attempts,
    )
    learner.steps += 1
    guard.observe(record, learner.view())
    learner._reset_momentum_after_refusals(record, guard.reset_momentum_after)
    clock.lap("observe")
    return replace(record, seconds=clock.seconds())


def attempt(
    learner: Learner, admitted: ScreenedBatch[T], guard: Guard, reduce: GradientFn[T], clock: Clock, number: int = 0
) -> Attempt:
    """One update, from the gradient to the verdict carried out: all or nothing."""
    loss = norm_before = norm_after = None
    judged_by_gates = False
    with learner.transaction() as tx:  # opens before the forward pass, which writes batch-norm statistics
        clock.lap("transaction")
        try:
            gradient, loss = reduce(admitted, learner)
        except SmallBatchError as error:
            if not admitted.dropped:
                raise
            verdict = reject(f"too little was left by the screens: {error}", "screens")
        else:
            norm_before = norm_after = global_norm(gradient)
            clock.lap("gradient")
            verdict = check_finite(loss, norm_before)
        if verdict.committed and guard.transforms:
            gradient = transform(gradient, guard.transforms, tx.before, clock)
            norm_after = global_norm(gradient)
            verdict = check_finite(loss, norm_after)
        if verdict.committed:
            learner.apply_gradient(gradient)
            clock.lap("update")
            change = CandidateUpdate(learner.steps, admitted.batch, gradient, loss, tx.before, learner.view(), number)
            verdict = most_severe(run_gate(gate, change, clock) for gate in guard.gates)
            judged_by_gates = True
        verdict = tx.apply_verdict(verdict)
        clock.lap("settle")
    return Attempt(verdict, loss, norm_before, norm_after, judged_by_gates)


def admit(item: T, screens: Sequence[Screen[T]], view: View, clock: Clock) -> ScreenedBatch[T]:
    """Runs the screens in order; what is not finite is out before the first: a batch as a whole, a client by itself."""
    stages: list[Screen[Any]] = [finite_values, *screens]
    return run_screens(ScreenedBatch(item), stages, view, clock)


def run_screens(admitted: ScreenedBatch[T], screens: Sequence[Screen[T]], view: View, clock: Clock) -> ScreenedBatch[T]:
    """What screens let through of what others have let through, and who emptied it."""
    for screen in screens:
        with clock.stage(screen):
            admitted = screen(admitted, view)
        if not isinstance(admitted, ScreenedBatch):
            raise GuardError(f"the screen {stage_name(screen)} returned {type(admitted).__name__}, wanted Admitted")
        if admitted.empty:
            return replace(admitted, stage=stage_name(screen), reason=admitted.reason or "no samples were left")
    return admitted


def finite_values(admitted: ScreenedBatch[T], view: View) -> ScreenedBatch[T]:
    """The screen that every guard begins with."""
    item = admitted.batch
    if isinstance(item, Batch):
        if all(_all_finite(t) for t in (item.x, item.y) if t.is_floating_point()):
            return admitted
        return admitted.drop(torch.ones(len(item), dtype=torch.bool), "samples or labels hold NaN or infinity")
    bad = ~(finite_rows(item.values) & item.weights.isfinite())
    return admitted.drop(bad, "the clients' updates hold NaN or infinity") if bool(bad.any()) else admitted


def transform(gradient: Tensors, transforms: Sequence[GradientTransform], view: View, clock: Clock) -> Tensors:
    """Runs the transforms in order."""
    for stage in transforms:
        with clock.stage(stage):
            changed = stage(gradient, view)
        if not isinstance(changed, dict) or changed.keys() != gradient.keys():
            raise GuardError(f"the transform {stage_name(stage)} did not return a gradient with the same names")
        gradient = changed
    return gradient


def run_gate(gate: Callable[[CandidateUpdate], Verdict], change: CandidateUpdate, clock: Clock) -> Verdict:
    """A gate's verdict, signed with its name."""
    with clock.stage(gate):
        verdict = gate(change)
    if not isinstance(verdict, Verdict):
        raise GuardError(f"the gate {stage_name(gate)} returned {type(verdict).__name__}, wanted a Verdict")
    return verdict if verdict.committed or verdict.stage else replace(verdict, stage=stage_name(gate))


def check_finite(loss: float | None, norm: float | None) -> Verdict:
    """Refuses an update whose loss or gradient is not finite."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if value is not None and not math.isfinite(value):
            return reject(f"the {name} is {value}", "finite_values")
    return COMMIT


@torch.no_grad()
def global_norm(gradient: Tensors) -> float:
    """The l2 norm over all tensors together."""
    if not gradient:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradient.values())))))


class Clock:
    """Seconds by stage name. Work on a GPU is counted where the step next waits for it."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: defaultdict[str, float] = defaultdict(float)

    def lap(self, name: str) -> None:
        """Books the time since the last lap under a name."""
        now = time.perf_counter()
        self._laps[name] += now - self._last
        self._last = now

    @contextmanager
    def stage(self, stage: Any) -> Iterator[None]:
        """Books the time inside under the stage's name."""
        yield
        self.lap(stage_name(stage))

    def seconds(self) -> dict[str, float]:
        """All laps, and "total"."""
        return {**self._laps, "total": time.perf_counter() - self._start}


def _all_finite(tensor: torch.Tensor) -> bool:
    # The least and the greatest value are NaN if any is: one pass, without a mask the size of the batch.
    low, high = torch.aminmax(tensor.detach())
    return math.isfinite(float(low)) and math.isfinite(float(high))
