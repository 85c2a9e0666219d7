"""Core data types: batches, client updates, verdicts, phases and the record of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import torch
from torch import Tensor

from taster.errors import BatchError

Tensors = dict[str, Tensor]
"""Tensors by the name of the parameter (or buffer) they belong to."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A labelled batch.

    Attributes:
        x: samples, [n, ...]; images as floating point in [0, 1].
        y: labels, [n, ...]; whole numbers for a classifier.
        loss_scale: factor on the batch's loss, the "loss scaling" of Pang et al. 2021, Tables 3 to 5: it stands for
            a contributor who can scale its own gradient. 1 for any honest batch.

    Raises:
        BatchError: when x and y are not tensors with the same number of samples, or there are none.
    """

    x: Tensor
    y: Tensor
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, Tensor):
                raise BatchError(f"{name}: got {type(value).__name__}, wanted a torch.Tensor")
            if value.layout is not torch.strided or value.is_nested:
                raise BatchError(
                    f"{name}: got a sparse or nested tensor ({value.layout}), wanted a dense one: to_dense()"
                )
            if value.dim() == 0:
                raise BatchError(f"{name}: got a single number, wanted a batch with samples along the first dimension")
        if len(self.x) != len(self.y):
            raise BatchError(f"got {len(self.x)} samples in x and {len(self.y)} labels in y, wanted as many of each")
        if len(self.x) == 0 or self.x.numel() == 0 or self.y.numel() == 0:
            raise BatchError(f"got an empty batch, {list(self.x.shape)}, wanted at least one sample with values")

    def __len__(self) -> int:
        return len(self.x)

    def select(self, keep: Tensor | slice) -> Batch:
        """A batch of the samples selected by a boolean mask [n], an index or a slice.

        Raises:
            BatchError: when nothing is kept.
        """
        return Batch(self.x[keep], self.y[keep], self.loss_weight)

    def to(self, device: torch.device | str) -> Batch:
        """A copy of the batch on another device."""
        return Batch(self.x.to(device), self.y.to(device), self.loss_weight)


@dataclass(frozen=True, eq=False)
class ClientUpdates:
    """The updates of one federated round: a flat vector for each client.

    Attributes:
        values: [m, d], one row a client.
        weights: [m], the weight that each client claims.
        usable: [m], the rows that the receiver has accepted, of which the first screen drops the others; None accepts
            those that are finite.
        rejection: why no row is usable, where none is.
    """

    values: Tensor
    weights: Tensor
    usable: Tensor | None = field(default=None, kw_only=True)
    rejection: str = field(default="the clients' updates hold NaN or infinity", kw_only=True)

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.weights.shape != self.values.shape[:1] or len(self.values) == 0:
            raise BatchError(
                f"got values {list(self.values.shape)} and weights {list(self.weights.shape)}, "
                "wanted [m, d] and [m] with at least one client"
            )

    def __len__(self) -> int:
        return len(self.values)

    def select(self, keep: Tensor) -> ClientUpdates:
        """The updates of the clients selected by a boolean mask [m] or an index."""
        usable = None if self.usable is None else self.usable[keep]
        return ClientUpdates(self.values[keep], self.weights[keep], usable=usable, rejection=self.rejection)


class Phase(StrEnum):
    """Phase of an attack: waiting, preparing the model, or striking."""

    DORMANT = "dormant"
    ACCUMULATE = "accumulate"
    TRIGGER = "trigger"


class Action(IntEnum):
    """Outcome of an update, in order of severity."""

    COMMIT = 0
    REJECT = 1
    REWIND = 2


@dataclass(frozen=True)
class Verdict:
    """A gate's decision about one update.

    Attributes:
        action: commit, reject (undo this update) or rewind (go back to an older snapshot).
        steps: how many steps to go back; 0 unless rewinding.
        reason: one sentence for people.
        stage: name of the stage that decided; filled in by the step.
        evidence: the numbers that the decision is based on, by name.
    """

    action: Action = Action.COMMIT
    steps: int = 0
    reason: str = ""
    stage: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """Whether the update is kept."""
        return self.action is Action.COMMIT


COMMIT = Verdict()


def reject(reason: str, stage: str = "", evidence: Mapping[str, float] | None = None) -> Verdict:
    """A verdict that undoes the update."""
    return Verdict(Action.REJECT, 0, reason, stage, evidence or {})


def rewind(steps: int, reason: str, stage: str = "", evidence: Mapping[str, float] | None = None) -> Verdict:
    """A verdict that restores the state before the last `steps` steps (1 is the step before this one)."""
    return Verdict(Action.REWIND, steps, reason, stage, evidence or {})


def most_severe(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe of several verdicts; the first among equals; COMMIT when there are none."""
    return max(verdicts, key=lambda v: (v.action, v.steps), default=COMMIT)


@dataclass(frozen=True)
class StepRecord:
    """Record of one step.

    Attributes:
        step: index of the call, from 0; it counts refused steps too.
        samples: number of samples in the batch; `dropped` and `corrected` count what the screens did with them.
        loss: training loss of the screened samples before the update; None without a forward pass.
        verdict: outcome of the update, with the stage that decided and its reason.
        gradient_norm_before: l2 norm over all parameters before the transforms; None without a backward pass.
        gradient_norm_after: the same after the transforms.
        attempts: number of updates that were made and judged; more than one if part of a batch was tried again.
        trusted: whether screens and gates were skipped, because the owner vouches for the batch.
        phase: the attack's phase, known to the harness that stages the attack and never to the guard.
        seconds: wall time of each stage by name, and "total".
    """

    step: int
    samples: int
    loss: float | None
    verdict: Verdict
    dropped: int = 0
    corrected: int = 0
    gradient_norm_before: float | None = None
    gradient_norm_after: float | None = None
    attempts: int = 0
    trusted: bool = False
    phase: Phase | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary. Values that are not finite become None."""
        return {
            "step": self.step,
            "phase": None if self.phase is None else self.phase.value,
            "samples": self.samples,
            "dropped": self.dropped,
            "corrected": self.corrected,
            "loss": _finite(self.loss),
            "attempts": self.attempts,
            "verdict": self.verdict.action.name,
            "rewound": self.verdict.steps,
            "stage": self.verdict.stage,
            "reason": self.verdict.reason,
            "evidence": {name: _finite(value) for name, value in self.verdict.evidence.items()},
            "gradient_norm_before": _finite(self.gradient_norm_before),
            "gradient_norm_after": _finite(self.gradient_norm_after),
            "seconds": dict(self.seconds),
        }


def _finite(number: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return number if number is not None and math.isfinite(number) else None
