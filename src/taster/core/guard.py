"""A guard: stages that every batch passes on its way into the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from taster.core.batch import Batch
from taster.core.client_updates import ClientUpdates
from taster.core.format_version import KEY, Format, fault_text
from taster.core.step_record import StepRecord
from taster.core.types import Tensors
from taster.core.verdict import Verdict
from taster.core.view import View
from taster.errors import CheckpointError, GuardError, TasterError

STAGE = Format("the state of a guard's stage", 1, CheckpointError)
_MISSHAPEN = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)

T = TypeVar("T", Batch, ClientUpdates)


@dataclass(frozen=True, eq=False)
class ScreenedBatch(Generic[T]):
    """What the screens have left of a batch. Screens return a new one, made with `drop`, `weight`, `correct` or
    `substitute`.

    Attributes:
        item: the samples (or clients) left; None when none are.
        weights: [n], the weight of each of them in the loss; None weighs them alike.
        dropped: how many were taken out.
        corrected: how many were changed.
        substituted: whether other samples stand in the place of all that came, which count as dropped.
        stage: the screen that emptied the batch, where one did.
        reason: why.
    """

    remaining: T | None
    weights: Tensor | None = None
    dropped: int = 0
    corrected: int = 0
    substituted: bool = False
    stage: str = ""
    reason: str = ""

    @property
    def empty(self) -> bool:
        """Whether everything has been dropped."""
        return self.remaining is None

    @property
    def batch(self) -> T:
        """The samples (or client updates) that are left.

        Raises:
            GuardError: when everything has been dropped.
        """
        if self.remaining is None:
            raise GuardError("everything in this batch has been dropped; look at `empty` first")
        return self.remaining

    def drop(self, mask: Tensor, reason: str) -> ScreenedBatch[T]:
        """Takes out the samples that the boolean mask [n] marks."""
        _check_mask(mask, self.batch)
        keep = ~mask
        kept = int(keep.sum())
        dropped = self.dropped + len(mask) - kept
        if kept == 0:
            return replace(self, remaining=None, weights=None, dropped=dropped, reason=reason)
        weights = None if self.weights is None else self.weights[keep]
        return replace(self, remaining=self.batch.select(keep), weights=weights, dropped=dropped)

    def weight(self, weights: Tensor) -> ScreenedBatch[T]:
        """Multiplies the weight of each sample, [n]."""
        if weights.shape != (len(self.batch),):
            raise GuardError(f"got weights of shape {list(weights.shape)}, wanted [{len(self.batch)}]")
        return replace(self, weights=weights if self.weights is None else self.weights * weights)

    def correct(self, batch: T, mask: Tensor) -> ScreenedBatch[T]:
        """Replaces the samples; the boolean mask [n] marks those that changed."""
        _check_mask(mask, batch)
        if len(batch) != len(self.batch):
            raise GuardError(f"got {len(batch)} corrected samples, wanted {len(self.batch)}")
        return replace(self, remaining=batch, corrected=self.corrected + int(mask.sum()))

    def substitute(self, batch: T) -> ScreenedBatch[T]:
        """Takes out all samples, and puts others, which did not come with the batch, in their place."""
        dropped = self.dropped if self.substituted else self.dropped + len(self.batch)
        return replace(self, remaining=batch, weights=None, dropped=dropped, substituted=True)


@dataclass(frozen=True, eq=False)
class CandidateUpdate:
    """An update that has been made and not yet committed.

    Attributes:
        step: index of the step.
        batch: what was learned from; None where the user's own code made the step and did not hand it over, or learned
            from several.
        gradient: as it was applied, after the transforms.
        loss: before the update; None in federated learning.
        before, after: views of the learner before and after the update.
        attempt: 0 for the screened batch; n for the n-th part or correction of it that is tried after a refusal.
        samples: how many were learned from, in all processes together; 0 where that is not known.
    """

    step: int
    batch: Batch | ClientUpdates | None
    gradient: Tensors
    loss: float | None
    before: View
    after: View
    attempt: int = 0
    samples: int = 0


class Screen(Protocol[T]):
    """Drops, weights or corrects samples (or client updates) before they are learned."""

    def __call__(self, admitted: ScreenedBatch[T], view: View, /) -> ScreenedBatch[T]:
        """The screened batch without what this screen takes out."""
        ...


class GradientTransform(Protocol):
    """Changes the gradient before the optimizer sees it. Keeps its names."""

    def __call__(self, gradient: Tensors, view: View, /) -> Tensors:
        """The changed gradient; `view` shows the learner before the step."""
        ...


class Gate(Protocol):
    """Judges an update after it has been made."""

    def __call__(self, change: CandidateUpdate, /) -> Verdict:
        """The verdict on the update."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Further methods of a stage that keeps state: all three or none.

    State changes in `observe` alone, which is called once after every step. Calling a stage changes nothing.
    """

    def observe(self, record: StepRecord, view: View, /) -> None:
        """Updates the stage's state from the record of a step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state, as nested containers of tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Loads what `state_dict` returned."""
        ...


@runtime_checkable
class UsesTrustedData(Protocol):
    """Further method of a stage that uses trusted samples, which its owner may replace."""

    def set_trusted_data(self, probe: Batch, /) -> None:
        """Replaces the trusted samples.

        Raises:
            BatchError, LabelError: for samples that the stage cannot use; nothing has changed then.
        """
        ...


@runtime_checkable
class ChecksModel(Protocol):
    """Further method of a stage whose trusted data or settings may not fit a model."""

    def check_model(self, view: View, /) -> None:
        """Raises ModelError, BatchError or LabelError if they do not fit; changes nothing."""
        ...


class Guard:
    """Stages in the order they run: screens, then transforms, then gates; within a kind, in the order given.

    Where a gate rejects an update, the screens in `salvage` are asked in turn what of the batch to try again: a screen
    that takes samples out is asked again for a part of the part, one that corrects samples or puts others in their
    place once. The first attempt that the gates accept is learned; there are at most
    `taster.core.step.MAX_SALVAGE_ATTEMPTS`.

    `g1 + g2` joins two guards kind by kind. `Guard()` does nothing. A stage is any callable of its protocol; its name
    in records is its attribute `name`, or else its function's or class's name.

    Attributes:
        renewals: how often its trusted data were replaced.

    Raises:
        GuardError: for a stage that is not callable, or keeps state with only some of the methods of `Stateful`.
    """

    def __init__(
        self,
        screens: tuple[Screen[Any], ...] | list[Screen[Any]] = (),
        transforms: tuple[GradientTransform, ...] | list[GradientTransform] = (),
        gates: tuple[Gate, ...] | list[Gate] = (),
        salvage: tuple[Screen[Any], ...] | list[Screen[Any]] = (),
    ) -> None:
        self.screens: tuple[Screen[Any], ...] = tuple(screens)
        self.transforms: tuple[GradientTransform, ...] = tuple(transforms)
        self.gates: tuple[Gate, ...] = tuple(gates)
        self.salvage: tuple[Screen[Any], ...] = tuple(salvage)
        self.renewals: int = 0
        for stage in self:
            if not callable(stage):
                raise GuardError(f"got the stage {stage!r}, wanted a callable")
            has = [m for m in ("observe", "state_dict", "load_state_dict") if callable(getattr(stage, m, None))]
            if has and not isinstance(stage, Stateful):
                raise GuardError(
                    f"the stage {stage_name(stage)} has only {has}; one that keeps state needs observe(record, view), "
                    "state_dict() and load_state_dict(state)"
                )

    def __iter__(self) -> Iterator[Any]:
        yield from self.screens
        yield from self.transforms
        yield from self.gates
        yield from self.salvage

    def __add__(self, other: Guard) -> Guard:
        return Guard(
            self.screens + other.screens,
            self.transforms + other.transforms,
            self.gates + other.gates,
            self.salvage + other.salvage,
        )

    def __repr__(self) -> str:
        kinds = {name: getattr(self, name) for name in ("screens", "transforms", "gates", "salvage")}
        inner = ", ".join(f"{kind}=[{', '.join(map(stage_name, stages))}]" for kind, stages in kinds.items() if stages)
        return f"Guard({inner})"

    @property
    def max_rewind(self) -> int:
        """The most steps that a gate may rewind: the largest attribute `max_rewind` of its gates, or 0."""
        return max((getattr(gate, "max_rewind", 0) for gate in self.gates), default=0)

    @property
    def reset_momentum_after(self) -> int:
        """Number of refusals in a row after which the learner zeros the optimizer's momentum: the smallest positive
        attribute `reset_momentum_after` of its gates, or 0 for never."""
        return min(
            (patience for gate in self.gates if (patience := getattr(gate, "reset_momentum_after", 0)) > 0), default=0
        )

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the trusted samples of all stages that have some, or of none if one of them cannot take them.

        Whether they fit the model is checked before the next step.

        Raises:
            GuardError: when there is no such stage.
            BatchError, LabelError: from the stage that cannot take them.
        """
        stages = [stage for stage in self if isinstance(stage, UsesTrustedData)]
        if not stages:
            raise GuardError(f"got a probe for {self!r}, none of whose stages uses trusted data")
        if len(stages) > 1:
            for stage in copy.deepcopy(stages):
                stage.set_trusted_data(probe)
        for stage in stages:
            stage.set_trusted_data(probe)
        self.renewals += 1

    def check_model(self, view: View) -> None:
        """Asks every stage that is a `ChecksModel` whether it fits the model.

        A learner does so when it is made, and before the first step with another guard or with new trusted data.

        Raises:
            ModelError, BatchError, LabelError: from the stage.
        """
        for stage in self:
            if isinstance(stage, ChecksModel):
                stage.check_model(view)

    def observe(self, record: StepRecord, view: View) -> None:
        """Calls `observe` of every stage that keeps state."""
        for stage in self:
            if isinstance(stage, Stateful):
                stage.observe(record, view)

    def state_dict(self) -> list[dict[str, Any] | None]:
        """The state of each stage in order, each with its format version; None for a stage without state."""
        return [{**stage.state_dict(), **STAGE.mark()} if isinstance(stage, Stateful) else None for stage in self]

    def load_state_dict(self, state: list[dict[str, Any] | None]) -> None:
        """Loads the state of a guard with the same stages.

        Raises:
            CheckpointError: when the stages differ, or a state is of another format or another stage.
        """
        self.check_state_dict(state)
        for stage, entry in zip(self, state, strict=True):
            if entry is None:
                continue
            try:
                stage.load_state_dict({key: value for key, value in entry.items() if key != KEY})
            except _MISSHAPEN as error:
                if isinstance(error, TasterError):
                    raise
                raise CheckpointError(
                    f"got a state that the stage {stage_name(stage)} cannot take up: {fault_text(error)}; wanted what "
                    "the state_dict() of a guard with the same stages returned"
                ) from error

    def check_state_dict(self, state: list[dict[str, Any] | None]) -> None:
        """Raises CheckpointError unless the state is one of a guard with the same stages, and of a known format."""
        if not isinstance(state, (list, tuple)) or not all(isinstance(entry, dict | None) for entry in state):
            raise CheckpointError(f"got {state!r:.80} as the state of a guard, wanted what Guard.state_dict returns")
        own = [isinstance(stage, Stateful) for stage in self]
        if own != [entry is not None for entry in state]:
            raise CheckpointError(f"got the state of {len(state)} other stages, wanted that of {self!r}")
        for stage, entry in zip(self, state, strict=True):
            if entry is not None:
                STAGE.check(entry.get(KEY), stage_name(stage))


def check_is_guard(guard: object) -> None:
    """Refuses anything but a guard where one belongs.

    Raises:
        GuardError: with what to do.
    """
    if not isinstance(guard, Guard):
        got = "a function" if callable(guard) else f"a {type(guard).__name__}"
        raise GuardError(
            f"got {got} as the guard, wanted a taster.Guard: taster.guard(probe) makes one of trusted data"
        )


def stage_name(stage: object) -> str:
    """The name of a stage in records."""
    for name in (getattr(stage, "name", None), getattr(stage, "__name__", None)):
        if isinstance(name, str) and name:
            return name
    return type(stage).__name__


def _check_mask(mask: Tensor, item: Mapping[str, Any] | Any) -> None:
    if mask.shape != (len(item),) or mask.dtype.is_floating_point or mask.dtype.is_complex or mask.element_size() != 1:
        raise GuardError(f"got a mask {list(mask.shape)} of {mask.dtype}, wanted a boolean one of shape [{len(item)}]")
