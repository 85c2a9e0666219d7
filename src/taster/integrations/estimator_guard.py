"""A guard around an estimator that learns by calls of its own: checked every few calls, undone by copies of it."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from taster.core.alarm import Alarm
from taster.core.guard import CandidateUpdate
from taster.core.progress import Progress
from taster.core.step import Clock, run_gate
from taster.core.step_record import StepRecord
from taster.core.verdict import COMMIT, Action, Verdict, reject
from taster.defences.gates.check_policy import CheckPolicy
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.probe_gate import warn_of_small_probe
from taster.defences.gates.reference_gate import ReferenceGate
from taster.errors import GuardError
from taster.integrations.estimator_quality import STAGE, EstimatorQuality, EstimatorView
from taster.stats.detection_bound import MAX_SAMPLES, detection_bound
from taster.utils.setting_types import Alpha, Count, Points, PositiveCount
from taster.utils.settings import validate_settings

_RECORDS = 10_000
"""Records that are kept; a stream has no end."""

_IF_MANY = (
    "single updates throw the estimator about: let it "
    "average (SGDClassifier(average=True)), learn in smaller steps or from larger batches, or check less often "
    "(every=...); or the trusted data have grown old"
)

OnRefusal = Callable[[StepRecord, tuple[Any, Any]], None]
"""(record, (X, y)): called for what a refusal has undone."""


@dataclass(frozen=True)
class EstimatorSettings:
    """How an estimator is guarded; see `taster.guarded`."""

    every: int
    tolerance: float
    alpha: float
    class_tolerance: float | None
    max_rewind: int


@validate_settings
def estimator_settings(
    *,
    every: PositiveCount,
    tolerance: Points,
    alpha: Alpha,
    class_tolerance: Points | None,
    max_rewind: Count,
) -> EstimatorSettings:
    """The settings, validated.

    Raises:
        SettingError: for settings out of range.
    """
    return EstimatorSettings(every, tolerance, alpha, class_tolerance, max_rewind)


def build_gate(quality: EstimatorQuality, settings: EstimatorSettings) -> ReferenceGate:
    """The gate of `probe_gate`, for estimators. A step of it is what lies between two checks."""
    criteria = HarmCriteria(settings.tolerance, settings.alpha, class_tolerance=settings.class_tolerance)
    policy = CheckPolicy(1, False, settings.max_rewind, 0, 0, seed=0)
    gate = ReferenceGate(STAGE, criteria, quality, policy)
    if quality.task == "classification":
        alpha = criteria.alpha_of_one(2, classes=True)
        bound = detection_bound(
            min(quality.samples, MAX_SAMPLES),
            tolerance=settings.tolerance,
            alpha=alpha,
            outcomes=gate.rewind_outcomes,
        )
        warn_of_small_probe(quality.samples, settings.tolerance, bound)
    return gate


@dataclass(frozen=True)
class _Call:
    """One call that learns, and what it was given."""

    learn: Callable[[Any], None]
    batch: tuple[Any, Any]
    samples: int


@dataclass(frozen=True)
class _State:
    """What a check changes, beside the estimator and the gate. It is replaced as a whole.

    Attributes:
        version: of the estimator at the last check.
        checked: a copy of the estimator at the last check; None where the present one is it. Copies never learn.
        ring: copies from before earlier steps, by the step's index.
        ringed: the version of the newest copy in the ring.
        can_compare: whether the estimator had learned anything at the last check.
        origin: the first step before which it had.
        progress: counts.
    """

    version: object = field(default_factory=object)
    checked: Any = None
    ring: Mapping[int, Any] = field(default_factory=dict)
    ringed: object = None
    can_compare: bool = True
    origin: int = 0
    progress: Progress = field(default_factory=Progress)


class EstimatorGuard:
    """The estimator that learns, the copies to go back to, and the gate that decides. A step is what lies between two
    checks.

    Args:
        estimator: as it begins; it is copied.
        quality: what is measured.
        settings: when, and by which criteria.
        on_refusal: called for each call that a refusal has undone.
        by_batch: how the estimator learns. True: batch by batch; it is copied before each call, in case that raises,
            and the first call of one that has learned nothing is a step of its own. False: sample by sample; where a
            call raises between two checks, a copy of the last check learns again what had been learned since, for
            which its random numbers must be its own.

    Attributes:
        estimator: the present one; another object after a refusal.
        records: of the last checks, oldest first.
    """

    def __init__(
        self,
        estimator: Any,
        quality: EstimatorQuality,
        settings: EstimatorSettings,
        on_refusal: OnRefusal | None,
        *,
        by_batch: bool,
    ) -> None:
        self.estimator: Any = copy.deepcopy(estimator)
        self.records: deque[StepRecord] = deque(maxlen=_RECORDS)
        from sklearn.exceptions import NotFittedError  # slow to import, and only needed here

        self.quality = quality
        self._every = settings.every
        self._interval = max(1, math.ceil(settings.max_rewind / 4))
        self._capacity = math.ceil(settings.max_rewind / self._interval) + 1 if settings.max_rewind else 0
        self._gate = build_gate(quality, settings)
        self._alarm = Alarm(_IF_MANY)
        self._on_refusal = on_refusal
        self._by_batch = by_batch
        self._calls: list[_Call] = []
        self._counted = 0
        self._state = _State()
        try:
            self._gate.check_model(self._view(self.estimator, self._state))
            learned = quality.has_learned(self.estimator)
        except NotFittedError:
            learned = False
        if not learned:
            self._gate.expect_learning()
        self._state = replace(self._state, can_compare=learned)

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the steps, by name."""
        return self._state.progress.counters

    @property
    def has_learned(self) -> bool:
        """Whether there is a state that later ones are compared with."""
        return self._state.can_compare

    def learn(
        self, call: Callable[[Any], None], batch: tuple[Any, Any], samples: int, counts: int = 1
    ) -> StepRecord | None:
        """Learns by one call, and checks the estimator if that is due.

        Args:
            call: learns; of the estimator.
            batch: (X, y), for `on_refusal`.
            samples: how many.
            counts: by how much the next check comes nearer.

        Returns:
            the record of the check; None where there was none.

        Raises:
            whatever the call, or measuring the trusted samples after it, raises; the estimator is then as before.
        """
        if self._state.checked is None:
            self._state = replace(self._state, checked=copy.deepcopy(self.estimator))
        calls, known, counted = self._calls, len(self._calls), self._counted
        before = copy.deepcopy(self.estimator) if self._by_batch and known else None
        try:
            call(self.estimator)
            calls.append(_Call(call, batch, samples))
            self._counted += counts
            due = self._counted >= self._every or (self._by_batch and not self._state.can_compare)
            record = self._check() if due else None
        except BaseException:
            del calls[known:]
            self._counted = counted
            self.estimator = self._learned_again() if before is None else before
            raise
        self._tell(record, calls)
        return record

    def check(self) -> StepRecord | None:
        """Checks what was learned since the last check now; None where there was nothing."""
        calls = self._calls
        record = self._check() if calls else None
        self._tell(record, calls)
        return record

    def _learned_again(self) -> Any:
        estimator = copy.deepcopy(self._state.checked)
        for call in self._calls:
            call.learn(estimator)
        return estimator

    def _check(self) -> StepRecord:
        """Judges the estimator, and undoes what is refused; all of it or, if anything raises, nothing."""
        state, estimator, gate_state = self._state, self.estimator, self._gate.state_dict()
        try:
            record = self._judged()
        except BaseException:
            self._state, self.estimator = state, estimator
            self._gate.load_state_dict(gate_state)
            raise
        self._calls, self._counted = [], 0
        return record

    def _judged(self) -> StepRecord:
        clock, gated = Clock(), self._state.can_compare
        state = self._with_copy(self._state) if gated else self._state
        step, made = state.progress.steps, object()
        samples = sum(call.samples for call in self._calls)
        before, after = self._view(state.checked, state), self._view(self.estimator, replace(state, version=made))
        if gated:
            change = CandidateUpdate(step, None, {}, None, before, after, samples=samples)
            verdict = run_gate(self._gate, change, clock)
        else:
            verdict = self._first_verdict(after)
        if verdict.committed:
            state = replace(
                state, version=made, checked=None, can_compare=True, origin=state.origin if gated else step + 1
            )
        elif verdict.action is Action.REJECT:
            self.estimator = copy.deepcopy(state.checked)
        else:
            verdict, state = self._rewound(verdict, state)
            self.estimator = copy.deepcopy(state.checked)
        record = StepRecord(step, samples, None, verdict, attempts=1)
        self._state = replace(state, progress=state.progress.after(record))
        if gated:
            self._gate.observe(record, self._view(self.estimator, self._state))
        return replace(record, seconds=clock.seconds())

    def _first_verdict(self, after: EstimatorView) -> Verdict:
        """Of an estimator that had learned nothing there is nothing to compare with; it must be finite, and fit."""
        try:
            self._gate.check_model(after)
        except GuardError as error:
            return reject(str(error), STAGE)
        return COMMIT

    def _with_copy(self, state: _State) -> _State:
        """Puts the state before this step into the ring, if that is due. Of a state that is there already no second
        copy: refused steps would push out all that came before."""
        step = state.progress.steps
        if not self._capacity or (step - state.origin) % self._interval or state.ringed is state.version:
            return state
        ring = dict([*state.ring.items(), (step, state.checked)][-self._capacity :])
        return replace(state, ring=ring, ringed=state.version)

    @staticmethod
    def _rewound(verdict: Verdict, state: _State) -> tuple[Verdict, _State]:
        """Goes back to the newest copy that is old enough; the verdict says how many steps that really undid."""
        step = state.progress.steps
        target = max((taken for taken in state.ring if taken <= step - verdict.steps), default=min(state.ring))
        ring = {taken: kept for taken, kept in state.ring.items() if taken <= target}
        version = object()
        state = replace(state, checked=ring[target], version=version, ring=ring, ringed=version)
        return replace(verdict, steps=step - target), state

    @staticmethod
    def _view(estimator: Any, state: _State) -> EstimatorView:
        return EstimatorView(estimator, step=state.progress.steps, state_version=state.version, past=state.ring)

    def _tell(self, record: StepRecord | None, calls: list[_Call]) -> None:
        """Keeps the record, logs a refusal, and hands what it has undone since the last check to `on_refusal`."""
        if record is None:
            return
        self.records.append(record)
        self._alarm.hear(self._state.progress.alarm, record)
        if record.verdict.committed:
            return
        if self._on_refusal is not None:
            for call in calls:
                self._on_refusal(record, call.batch)
