"""The one path that every update takes. Online and federated learning differ in batch and gradient, not here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from taster.core.batch import Batch
from taster.core.client_updates import ClientUpdates
from taster.core.finite import BatchExtremes, check_finite, finite_values, without_samples
from taster.core.guard import CandidateUpdate, GradientTransform, Guard, Screen, ScreenedBatch, T, stage_name
from taster.core.module_tree import walk
from taster.core.param_vectors import global_norm, global_norm_tensor
from taster.core.ranks import mean
from taster.core.state import LearnerState
from taster.core.step_record import StepRecord
from taster.core.transaction import Transaction
from taster.core.types import Tensors
from taster.core.verdict import Action, Verdict, most_severe, reject
from taster.core.view import View
from taster.errors import GuardError, ModelError, SmallBatchError

GradientFn = Callable[[ScreenedBatch[T], LearnerState], tuple[Tensors, float | Tensor | None]]
"""From a screened batch to one gradient by parameter name, and the loss or None: a backward pass online, an aggregation
in federated learning. A loss that is a tensor, [], is fetched with the step's other numbers."""

MAX_SALVAGE_ATTEMPTS = 12
"""Attempts at learning something of a batch that a gate has rejected; each costs a step and a check."""

_TOO_SMALL = "too little was left: a single sample, of which batch norm has no statistics"


@dataclass(frozen=True)
class Attempt:
    """What became of one update that was made and judged; the norms are those of `StepRecord`."""

    verdict: Verdict
    loss: float | None = None
    norm_before: float | None = None
    norm_after: float | None = None
    by_gate: bool = False


class _BatchNotFinite(Exception):  # noqa: N818
    """Known once the gradient has been computed."""


def guarded_step(
    state: LearnerState, batch: T, guard: Guard, compute_gradient: GradientFn[T], *, trusted: bool = False
) -> StepRecord:
    """Screens, gradient, transforms, update, gates, and the verdict applied; what a gate has rejected, again as the
    salvaging screens leave or correct it. A trusted batch passes transforms alone."""
    clock = Clock()
    stages = Guard(transforms=guard.transforms) if trusted else guard
    with Transaction(state, guard) as transaction:
        transaction.claim()
        screened = screen_batch(state, batch, stages.screens, clock, _refuse_batch)
        made, learned, attempts = _attempts(state, screened, stages, compute_gradient, transaction, clock)
        record = StepRecord(
            step=state.steps,
            samples=len(batch),
            loss=made.loss,
            verdict=made.verdict,
            dropped=learned.dropped,
            corrected=learned.corrected,
            gradient_norm_before=made.norm_before,
            gradient_norm_after=made.norm_after,
            attempts=attempts,
            trusted=trusted,
        )
        transaction.commit(record)
    clock.lap("observe")
    return replace(record, seconds=clock.seconds())


def _attempts(
    state: LearnerState,
    screened: ScreenedBatch[T],
    guard: Guard,
    compute_gradient: GradientFn[T],
    transaction: Transaction,
    clock: Clock,
) -> tuple[Attempt, ScreenedBatch[T], int]:
    """The attempt that the record tells of, what was learned from, and how many updates gates judged."""
    if screened.empty:
        return Attempt(reject(screened.reason, screened.stage)), screened, 0
    try:
        made = refused = _attempt(state, screened, guard, compute_gradient, transaction, clock, 0)
    except _BatchNotFinite:
        screened = without_samples(screened)
        verdict = transaction.apply_verdict(reject(screened.reason, screened.stage))
        clock.lap("apply_verdict")
        return Attempt(verdict), screened, 0
    attempts, part = int(made.by_gate), screened
    if made.by_gate and made.verdict.action is Action.REJECT:
        for part in islice(_salvaged(state, screened, guard.salvage, clock), MAX_SALVAGE_ATTEMPTS):
            made = _attempt(state, part, guard, compute_gradient, transaction, clock, attempts)
            attempts += 1
            if made.verdict.action is not Action.REJECT:
                break
    if made is refused or not made.verdict.committed:
        return refused, screened, attempts  # the record says why the batch was refused, and not the last part of it
    said = f"{_salvage_in_words(part, screened)}: {refused.verdict.reason}"
    return replace(made, verdict=replace(refused.verdict, action=Action.COMMIT, reason=said)), part, attempts


def _attempt(
    state: LearnerState,
    screened: ScreenedBatch[T],
    guard: Guard,
    compute_gradient: GradientFn[T],
    transaction: Transaction,
    clock: Clock,
    number: int,
) -> Attempt:
    """One update, from the gradient to the verdict applied: all or nothing."""
    loss = norm_before = norm_after = None
    judged_by_gates = False
    transaction.open()  # before the forward pass, which writes batch-norm statistics
    clock.lap("transaction")
    try:
        gradient, loss, norm_before = _gradient(state, screened, compute_gradient)
        norm_after = norm_before
    except SmallBatchError as error:
        if not screened.dropped:
            raise
        verdict = reject(f"too little was left by the screens: {error}", "screens")
    else:
        clock.lap("gradient")
        verdict = check_finite(loss, norm_before)
    if verdict.committed and guard.transforms:
        gradient = transform(gradient, guard.transforms, transaction.before, clock)
        norm_after = global_norm(gradient)
        verdict = check_finite(loss, norm_after)
    overflow = state.scaler is not None and not verdict.committed
    if verdict.committed:
        state.apply_gradient(gradient)
        clock.lap("update")
        verdict = judge(state, guard, screened.batch, gradient, loss, transaction.before, clock, number)
        judged_by_gates = True
    verdict = transaction.apply_verdict(verdict, keep_scaler=overflow)
    clock.lap("apply_verdict")
    return Attempt(verdict, loss, norm_before, norm_after, judged_by_gates)


def _gradient(
    state: LearnerState, screened: ScreenedBatch[T], compute_gradient: GradientFn[T]
) -> tuple[Tensors, float | None, float]:
    """The gradient, the loss over all processes and the gradient's norm. Whatever is to be known before the update is
    fetched here at once: whether the batch is finite and its labels fit, too."""
    readings = state.readings
    try:
        gradient, own = compute_gradient(screened, state)
    except Exception:
        readings.read()  # what a batch that is not finite leads to counts for nothing: it is refused
        raise
    found: list[float] = []
    readings.add([global_norm_tensor(gradient)], found.extend)
    if isinstance(own, Tensor):
        readings.add([own], found.extend)

    def told() -> float | None:
        readings.read()
        return found[1] if isinstance(own, Tensor) else own

    loss = mean(state.ranks.together("the loss", told))
    return gradient, loss, found[0]


def _refuse_batch() -> None:
    raise _BatchNotFinite


def judge(
    state: LearnerState,
    guard: Guard,
    batch: Batch | ClientUpdates | None,
    gradient: Tensors,
    loss: float | None,
    before: View,
    clock: Clock,
    attempt: int = 0,
    samples: int | None = None,
) -> Verdict:
    """What the gates say of the update that has just been made: one verdict for all processes. `samples` is how many
    this process has learned from, where that is not the batch."""
    state.synchronize_buffers()
    own = samples if samples is not None else 0 if batch is None else len(batch)
    total = sum(state.ranks.gather("the end of the update", own))
    update = CandidateUpdate(state.steps, batch, gradient, loss, before, state.view(), attempt, total)

    def verdict() -> Verdict:
        return picklable(most_severe(run_gate(gate, update, clock) for gate in guard.gates))

    return most_severe(state.ranks.together("the gates", verdict))


def picklable(verdict: Verdict) -> Verdict:
    """A verdict that can be told to other processes."""
    return replace(verdict, evidence=dict(verdict.evidence))


def screen_batch(
    state: LearnerState,
    batch: T,
    screens: Sequence[Screen[T]],
    clock: Clock,
    refuse: Callable[[], None],
) -> ScreenedBatch[T]:
    """Runs the screens in order, behind `finite_values`. Where one process has nothing left to learn, none learns: the
    others would wait for its gradient.

    Without screens nothing waits for the batch here: if it is not finite, `refuse` is called once `state.readings` are
    read.
    """
    if isinstance(batch, Batch) and not screens and state.ranks.size == 1:
        extremes = BatchExtremes(batch)
        state.readings.add(extremes.tensors, lambda numbers: None if extremes.finite(numbers) else refuse())
        clock.lap(stage_name(finite_values))
        return ScreenedBatch(batch)
    screened, view = ScreenedBatch(batch), state.view()
    stages: list[Screen[Any]] = [finite_values, *screens]

    def told() -> tuple[bool, str, str]:
        nonlocal screened
        screened = run_screens(screened, stages, view, clock)
        if state.ranks.size > 1 and _too_small(screened, state):
            screened = replace(screened, remaining=None, stage="screens", reason=_TOO_SMALL)
        return screened.empty, screened.stage, screened.reason

    for rank, (empty, stage, reason) in enumerate(state.ranks.together("the screens", told)):
        if empty and not screened.empty:
            return replace(screened, remaining=None, stage=stage, reason=f"in process {rank}: {reason}")
    return screened


def _too_small(screened: ScreenedBatch[Any], state: LearnerState) -> bool:
    """Whether screens have left a single sample, of which batch norm has no statistics. That is known in time: found
    out in the forward pass of one process, it would leave the others waiting."""
    if screened.empty or not screened.dropped or len(screened.batch) > 1:
        return False
    return any(isinstance(module, _BatchNorm) and module.training for _, module in walk(state.module))


def _salvage_in_words(part: ScreenedBatch[T], screened: ScreenedBatch[T]) -> str:
    if part.substituted:
        return f"learned {len(part.batch)} other samples in its place"
    corrected = ", corrected" if part.corrected > screened.corrected else ""
    return f"learned {len(part.batch)} of {len(screened.batch) + screened.dropped} samples{corrected}"


def _salvaged(
    state: LearnerState, screened: ScreenedBatch[T], salvage: Sequence[Screen[T]], clock: Clock
) -> Iterator[ScreenedBatch[T]]:
    """What the salvaging screens make of a refused batch, one screen after the other: parts of parts as long as a
    screen takes something out, or once what it corrects or puts in its place."""
    for screen in salvage:
        part, dropping = screened, True
        while dropping:
            part, altered, dropping = _altered(state, part, screen, clock)
            if not altered:
                break
            yield part


def _altered(
    state: LearnerState, part: ScreenedBatch[T], screen: Screen[T], clock: Clock
) -> tuple[ScreenedBatch[T], bool, bool]:
    """What a salvaging screen makes of a refused batch; whether that is worth an attempt, and whether it is smaller, in
    every process."""
    found = part

    def told() -> tuple[bool, bool]:
        nonlocal found
        found = run_screens(part, [screen], state.view(), clock)
        if found.empty or (state.ranks.size > 1 and _too_small(found, state)):
            return False, False
        smaller = len(found.batch) < len(part.batch) and not found.substituted
        return smaller or found.substituted or found.corrected > part.corrected, smaller

    outcomes = state.ranks.together("the salvage", told)
    return found, all(altered for altered, _ in outcomes), all(smaller for _, smaller in outcomes)


def run_screens(screened: ScreenedBatch[T], screens: Sequence[Screen[T]], view: View, clock: Clock) -> ScreenedBatch[T]:
    """What further screens leave of a screened batch; where nothing is left, by which of them and why."""
    for screen in screens:
        with clock.stage(screen):
            screened = screen(screened, view)
        if not isinstance(screened, ScreenedBatch):
            raise GuardError(
                f"the screen {stage_name(screen)} returned {type(screened).__name__}, wanted the ScreenedBatch that it "
                "was given, or what its methods drop, weight, correct and substitute return"
            )
        if screened.empty:
            return replace(screened, stage=stage_name(screen), reason=screened.reason or "no samples were left")
    return screened


def transform(gradient: Tensors, transforms: Sequence[GradientTransform], view: View, clock: Clock) -> Tensors:
    """Runs the transforms in order.

    Raises:
        ModelError: for sparse gradients, which transforms cannot compute with.
    """
    sparse = [name for name, value in gradient.items() if value.is_sparse]
    if sparse:
        raise ModelError(
            f"got sparse gradients ({', '.join(sparse)}) and transforms, which compute with dense ones; wanted "
            "Embedding(sparse=False), or a guard without transforms"
        )
    for stage in transforms:
        with clock.stage(stage):
            changed = stage(gradient, view)
        if not isinstance(changed, dict) or changed.keys() != gradient.keys():
            raise GuardError(f"the transform {stage_name(stage)} did not return a gradient with the same names")
        gradient = changed
    return gradient


def run_gate(gate: Callable[[CandidateUpdate], Verdict], update: CandidateUpdate, clock: Clock) -> Verdict:
    """A gate's verdict, signed with its name."""
    with clock.stage(gate):
        verdict = gate(update)
    if not isinstance(verdict, Verdict):
        raise GuardError(f"the gate {stage_name(gate)} returned {type(verdict).__name__}, wanted a Verdict")
    return verdict if verdict.committed or verdict.stage else replace(verdict, stage=stage_name(gate))


class Clock:
    """Seconds by stage name. Work on a GPU is counted where the step next waits for it."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: defaultdict[str, float] = defaultdict(float)

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to a name."""
        now = time.perf_counter()
        self._laps[name] += now - self._last
        self._last = now

    @contextmanager
    def stage(self, stage: Any) -> Iterator[None]:
        """Adds the time inside to the stage's name."""
        yield
        self.lap(stage_name(stage))

    def seconds(self) -> dict[str, float]:
        """All laps, and "total"."""
        return {**self._laps, "total": time.perf_counter() - self._start}
