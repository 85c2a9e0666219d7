"""Shapes of the JSON that a run leaves, as they are written and as every reader checks them."""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

# Keys that a newer or older taster writes besides are kept.
_SHAPE = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class CellKey(TypedDict):
    """What tells the cells of a grid apart: the labels of attack and defence, and the seed."""

    attack: str
    defence: str
    seed: int


@with_config(_SHAPE)
class PhaseScores(TypedDict):
    """Means of one score in one phase over the samples that were changed, before and after, and the area under the ROC
    curve in %. Of an attack that changed nothing, only the mean over all clean samples."""

    clean: NotRequired[float]
    poisoned: NotRequired[float]
    auc: NotRequired[float]


@with_config(_SHAPE)
class RunBound(TypedDict):
    """The accuracy drop that the guard may have missed in the run; see `taster.stats.detection_bound`."""

    max_accuracy_drop: float
    confidence: NotRequired[float]
    false_alarm_rate: NotRequired[float]
    samples: NotRequired[int]
    churn: float
    checks: NotRequired[int]
    refusals: NotRequired[int]


@with_config(_SHAPE)
class CraftingSummary(TypedDict):
    """A crafting in a few numbers: seconds on the clock, of the processor and prepared once for all; the greatest loss
    of the attacker's normal samples and the least test accuracy in % on the way."""

    iterations: int
    seconds: float
    processor: float
    prepared: float
    loss: float | None
    accuracy: float


@with_config(_SHAPE)
class CraftingCourse(TypedDict):
    """A crafting iteration by iteration; `untouched` is the test accuracy without poison, in %."""

    seconds: float
    processor: float
    prepared: float
    loss: list[float | None]
    accuracy: list[float]
    untouched: float


@with_config(_SHAPE)
class CellRow(TypedDict):
    """A finished cell's row of results.json. Accuracies are in %, drops in points; `docs/recipes.md` explains each."""

    attack: str
    defence: str
    seed: int
    acc_start: float
    acc_before: float
    acc_after: float
    drop: float
    worst_step: NotRequired[float]
    steps: int
    stopped_by: str
    rejected: int
    screened: NotRequired[float | None]
    detection_bound: NotRequired[RunBound | None]
    seconds: NotRequired[float]
    cost: NotRequired[float | None]
    dropped_clients: NotRequired[int]
    scores: NotRequired[dict[str, dict[str, PhaseScores]]]
    forming: NotRequired[CraftingSummary]
    asr_start: NotRequired[float]
    asr: NotRequired[float]


@with_config(_SHAPE)
class StepLine(TypedDict):
    """One line of steps.jsonl: what tells the cell, the step's record, and what the harness measured around it."""

    attack: str
    defence: str
    seed: int
    step: int
    phase: str
    samples: int
    dropped: int
    corrected: int
    loss: float | None
    verdict: str
    stage: str
    reason: str
    poisoned: int
    derivatives: str | None
    monitor_accuracy: float
    test_accuracy: float | None
    scores: NotRequired[dict[str, PhaseScores]]
    clients_dropped: NotRequired[dict[str, str]]


@with_config(_SHAPE)
class CellContent(TypedDict):
    """A finished cell's cell.json."""

    row: CellRow
    monitor_start: NotRequired[float]
    monitor_before: NotRequired[float]
    monitor_after: NotRequired[float]
    forming: NotRequired[CraftingCourse | None]


@with_config(_SHAPE)
class Results(TypedDict):
    """The content of results.json."""

    recipe: str
    rows: list[CellRow]


@with_config(_SHAPE)
class Environment(TypedDict):
    """The content of environment.json: what a run ran on."""

    taster: NotRequired[str]
    commit: NotRequired[str | None]
    python: NotRequired[str]
    packages: NotRequired[dict[str, str | None]]
    platform: NotRequired[str]
    device: NotRequired[str]
    processor: NotRequired[str | None]
    cpus: NotRequired[int | None]
    threads: NotRequired[int]
    jobs: NotRequired[int]
    engine: NotRequired[Literal["local", "flower"]]
    started: NotRequired[str]
