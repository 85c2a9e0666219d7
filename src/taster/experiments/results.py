"""Shapes of the JSON that a run leaves, as they are written and as every reader checks them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Discriminator, Tag, with_config
from typing_extensions import TypedDict

from taster.core.format_version import Format
from taster.errors import RunDirectoryError

RUN = Format("a run", 1, RunDirectoryError)
"""In environment.json and results.json."""

# Keys that a newer or older taster writes besides are kept.
_SHAPE = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def _holds(key: str, value: Any) -> str:
    return "offline" if isinstance(value, dict) and key in value else "stream"


# Rows, lines and cells of offline recipes are told from those of streams by a key that only they have.
_BY_ROW = Discriminator(lambda row: _holds("accuracy", row))
_BY_LINE = Discriminator(lambda line: _holds("epoch", line))
_BY_CONTENT = Discriminator(lambda content: _holds("accuracy", content.get("row") if isinstance(content, dict) else {}))


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
    certified: NotRequired[dict[str, float]]


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
class OfflineRow(TypedDict):
    """A finished cell's row of results.json in an offline recipe. Shares are in %.

    `accuracy` is that of the trained model on the test split, `recall` that on each class (None without samples of it).
    `samples`, `poisoned` and `inserted` count the training set, `kept` those that the training saw; `precision` and
    `found` are the share of what a defence left out that was poisoned, and of what was poisoned that it left out.
    `asr` is the success rate of a backdoor, `target_success` the share of the `targets` in the class that the attacker
    wants, and `certified` the accuracy that is left at the worst by number of poisoned samples.
    """

    attack: str
    defence: str
    seed: int
    accuracy: float
    recall: list[float | None]
    samples: int
    poisoned: int
    inserted: int
    kept: int
    precision: float | None
    found: float | None
    steps: int
    refused: int
    seconds_attack: float
    seconds_training: float
    asr: NotRequired[float]
    target_success: NotRequired[float]
    targets: NotRequired[int]
    certified: NotRequired[dict[str, float]]


@with_config(_SHAPE)
class EpochLine(TypedDict):
    """One line of steps.jsonl in an offline recipe: the model after an epoch, or after the whole of a training that has
    none. Accuracies and rates are in %; the losses are those of clean and of poisoned training samples, as they are
    trained on."""

    attack: str
    defence: str
    seed: int
    epoch: int
    steps: int
    refused: int
    loss_clean: float | None
    loss_poisoned: float | None
    test_accuracy: float | None
    asr: NotRequired[float]
    target_success: NotRequired[float]
    stage: NotRequired[str]
    reason: NotRequired[str]


@with_config(_SHAPE)
class OfflineContent(TypedDict):
    """A finished cell's cell.json in an offline recipe."""

    row: OfflineRow


@with_config(_SHAPE)
class FailedCell(TypedDict):
    """A cell of an offline recipe that came to no result, because its attack or its defence cannot work with what it
    was given: too few trusted samples, say, or one class that is left. `reason` is what it said."""

    attack: str
    defence: str
    seed: int
    reason: str


AnyRow = CellRow | OfflineRow
AnyLine = StepLine | EpochLine
AnyContent = CellContent | OfflineContent


@with_config(_SHAPE)
class Results(TypedDict):
    """The content of results.json; all rows are of one scenario. `failed` is there if a cell failed."""

    recipe: str
    failed: NotRequired[list[FailedCell]]
    rows: list[Annotated[Annotated[CellRow, Tag("stream")] | Annotated[OfflineRow, Tag("offline")], _BY_ROW]]


Content = Annotated[Annotated[CellContent, Tag("stream")] | Annotated[OfflineContent, Tag("offline")], _BY_CONTENT]
"""The content of a cell.json."""

Line = Annotated[Annotated[StepLine, Tag("stream")] | Annotated[EpochLine, Tag("offline")], _BY_LINE]
"""A line of a steps.jsonl."""


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
    engine: NotRequired[Literal["local", "ray", "flower"]]
    started: NotRequired[str]
