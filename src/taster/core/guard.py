"""A guard: stages that every batch passes on its way into the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from taster.core.types import Batch, StepRecord, Tensors, Updates, Verdict
from taster.core.view import View
from taster.errors import CheckpointError, GuardError

T = TypeVar("T", Batch, Updates)


@dataclass(frozen=True, eq=False)
class ScreenedBatch(Generic[T]):
    """What the screens have let through so far. Screens make a new one with `drop`, `weight` or `correct`.

    Attributes:
        item: the samples (or clients) left; None when none are.
        weights: [n], the weight of each of them in the loss; None weighs them alike.
        dropped: how many were taken out.
        corrected: how many were changed.
        stage: the screen that emptied the batch, where one did.
        reason: why.
    """

    remaining: T | None
    weights: Tensor | None = None
    dropped: int = 0
    corrected: int = 0
    stage: str = ""
    reason: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing is left to learn from."""
        return self.remaining is None

    @property
    def batch(self) -> T:
        """The item, where there is one.

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


@dataclass(frozen=True, eq=False)
class CandidateUpdate:
    """An update that has been made and not yet settled.

    Attributes:
        step: index of the step.
        batch: what was learned from.
        gradient: as it was applied, after the transforms.
        loss: before the update; None where there is none, as in federated learning.
        before, after: the learner on both sides of it.
        attempt: 0 for a batch as the screens let it through; n for the n-th part of it that is tried after a refusal.
    """

    step: int
    batch: Batch | Updates
    gradient: Tensors
    loss: float | None
    before: View
    after: View
    attempt: int = 0


class Screen(Protocol[T]):
    """Looks at samples (or client updates) before they are learned: drops, weights or corrects them."""

    def __call__(self, admitted: ScreenedBatch[T], view: View, /) -> ScreenedBatch[T]:
        """What is let through."""
        ...


class GradientTransform(Protocol):
    """Changes the gradient before the optimizer sees it. Keeps its names."""

    def __call__(self, gradient: Tensors, view: View, /) -> Tensors:
        """The changed gradient; `view` shows the learner before the step."""
        ...


class Gate(Protocol):
    """Judges an update after it has been made."""

    def __call__(self, change: CandidateUpdate, /) -> Verdict:
        """What is to become of the update."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """What a stage of any kind has besides, where it keeps state: all three methods or none.

    State changes in `observe` alone, which is called once after every step. Calling a stage changes nothing.
    """

    def observe(self, record: StepRecord, view: View, /) -> None:
        """Learns what became of a step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Takes up the state of `state_dict`."""
        ...


@runtime_checkable
class UsesTrustedData(Protocol):
    """What a stage has besides, where it goes by trusted samples that its owner may renew."""

    def set_trusted_data(self, probe: Batch, /) -> None:
        """Takes up others."""
        ...


class Guard:
    """Stages in the order they run: screens, then transforms, then gates; within a kind, in the order given.

    Where a gate rejects an update, the screens in `salvage` are asked: what they let through is tried again, until they
    let nothing through, or all that came.

    `g1 + g2` joins two guards kind by kind. `Guard()` does nothing. A stage is any callable of its protocol; its name
    in records is its attribute `name`, or else its function's or class's name.

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
        self.screens = tuple(screens)
        self.transforms = tuple(transforms)
        self.gates = tuple(gates)
        self.salvage = tuple(salvage)
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
        """How many steps its gates may go back at most, as far as they say so (by an attribute of this name)."""
        return max((getattr(gate, "max_rewind", 0) for gate in self.gates), default=0)

    @property
    def reset_momentum_after(self) -> int:
        """After how many refusals in a row the learner is to let go of the optimizer's momentum, as the least patient
        gate says (by an attribute of this name); 0 for never."""
        return min(
            (patience for gate in self.gates if (patience := getattr(gate, "reset_momentum_after", 0)) > 0), default=0
        )

    def set_trusted_data(self, probe: Batch) -> None:
        """Gives all stages that are `Renewable` new trusted samples in the place of those they had.

        Raises:
            GuardError: when there is no such stage.
        """
        stages = [stage for stage in self if isinstance(stage, UsesTrustedData)]
        if not stages:
            raise GuardError(f"got a probe for {self!r}, none of whose stages has one to renew")
        for stage in stages:
            stage.set_trusted_data(probe)

    def observe(self, record: StepRecord, view: View) -> None:
        """Tells every stage that keeps state what became of the step."""
        for stage in self:
            if isinstance(stage, Stateful):
                stage.observe(record, view)

    def state_dict(self) -> list[dict[str, Any] | None]:
        """The state of each stage in order; None for one without."""
        return [stage.state_dict() if isinstance(stage, Stateful) else None for stage in self]

    def load_state_dict(self, state: list[dict[str, Any] | None]) -> None:
        """Takes up the state of a guard with the same stages.

        Raises:
            CheckpointError: when the stages differ.
        """
        self.check_state_dict(state)
        for stage, entry in zip(self, state, strict=True):
            if entry is not None:
                stage.load_state_dict(entry)

    def check_state_dict(self, state: list[dict[str, Any] | None]) -> None:
        """Raises CheckpointError unless the state is one of a guard with the same stages."""
        own = [isinstance(stage, Stateful) for stage in self]
        if own != [entry is not None for entry in state]:
            raise CheckpointError(f"got the state of {len(state)} other stages, wanted that of {self!r}")


def stage_name(stage: object) -> str:
    """The name under which a stage appears in records."""
    for name in (getattr(stage, "name", None), getattr(stage, "__name__", None)):
        if isinstance(name, str) and name:
            return name
    return type(stage).__name__


def _check_mask(mask: Tensor, item: Mapping[str, Any] | Any) -> None:
    if mask.shape != (len(item),) or mask.dtype.is_floating_point or mask.dtype.is_complex or mask.element_size() != 1:
        raise GuardError(f"got a mask {list(mask.shape)} of {mask.dtype}, wanted a boolean one of shape [{len(item)}]")
