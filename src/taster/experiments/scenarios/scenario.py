"""The one loop over the steps of a cell, whatever the scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.learner import Learner
from taster.core.step_record import Phase, StepRecord
from taster.experiments.results import CellContent, CellRow, CraftingCourse, StepLine
from taster.experiments.scenarios.builders import make_schedule
from taster.experiments.scenarios.cell_trace import CellTrace
from taster.experiments.scenarios.context import CellContext, SeedContext
from taster.utils.seeds import derived_seed


@dataclass(frozen=True)
class ScenarioStep:
    """One step of a scenario.

    Attributes:
        record: of the learner's step.
        poisoned: how many samples or clients were the attacker's work.
        columns: that only this scenario's lines of steps.jsonl have.
    """

    record: StepRecord
    poisoned: int
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScenarioResult:
    """What a scenario adds to a cell's result.

    Attributes:
        columns: that only this scenario's rows of results.json have.
        crafting: of the trigger, iteration by iteration, if the attack keeps it.
        images: samples for the report, by phase.
        scores: every sample's, by score, phase and kind.
    """

    columns: Mapping[str, Any]
    crafting: CraftingCourse | None = None
    images: Mapping[str, Tensor] | None = None
    scores: Mapping[str, Any] | None = None


class Scenario(Protocol):
    """How one step comes about: what is drawn, who poisons it, and what makes the learner's step of it.

    A scenario is one file. It is made from a cell's context by its class, and the class makes everything once from a
    seed's for the dry run.
    """

    @property
    def learner(self) -> Learner:
        """The model under attack."""

    @property
    def attacks(self) -> bool:
        """Whether anybody attacks."""

    def accuracy(self, samples: Batch, /) -> float:
        """Accuracy in % of what predicts: of the learner, unless something beside it does."""

    def describe_derivatives(self) -> str | None:
        """How the attack has differentiated so far; None if it does not."""

    def step(self, phase: Phase, last: StepRecord | None, /) -> ScenarioStep:
        """Makes the next step.

        Args:
            phase: of the attack.
            last: the record of the step before.
        """

    def result(self, records: list[StepRecord], /) -> ScenarioResult:
        """What the scenario adds to the cell's result, after the trigger's step."""

    @classmethod
    def dry_run(cls, context: SeedContext) -> None:
        """Makes every attack and defence of the recipe once.

        Raises:
            RecipeError: for faults that only show then.
        """


@dataclass(frozen=True)
class CellResult:
    """What a cell leaves besides its steps.

    Attributes:
        row: of results.json.
        monitor: accuracies on the monitor split, in %, under the names that cell.json has for them.
        crafting, images, scores: see `ScenarioResult`.
    """

    row: CellRow
    monitor: Mapping[str, float]
    crafting: CraftingCourse | None
    images: Mapping[str, Tensor] | None
    scores: Mapping[str, Any] | None

    def content(self) -> CellContent:
        """The content of cell.json."""
        return {"row": self.row, **self.monitor, "forming": self.crafting}  # type: ignore[typeddict-item]


def run_cell(context: CellContext, scenario: Scenario, on_step: Callable[[StepLine], None]) -> CellResult:
    """Runs a cell from its burnt-in state to the trigger's step.

    Args:
        context: of the cell.
        scenario: made from it.
        on_step: is given the line of steps.jsonl of each step.

    Returns:
        the cell's result.
    """
    learner, batches = scenario.learner, context.batches
    schedule = make_schedule(context.recipe.schedule, harmless=not scenario.attacks)
    # One seed for all attacks and defences, so that dropout is the same where nothing else differs.
    torch.manual_seed(derived_seed(context.seed, "dropout"))
    trace = CellTrace(
        lambda role: scenario.accuracy(batches[role]),
        schedule,
        context.recipe.compute.eval_every,
    )
    phase = Phase.DORMANT
    while phase is not Phase.TRIGGER:
        phase = trace.next_phase()
        step = scenario.step(phase, trace.records[-1] if trace.records else None)
        line: Any = {
            **context.cell_key,
            **step.record.to_dict(),
            "poisoned": step.poisoned,
            "derivatives": scenario.describe_derivatives(),
            **trace.add(step.record),
            **step.columns,
        }
        on_step(line)
    added = scenario.result(trace.records)
    row: Any = {**context.cell_key, **trace.row(learner.guard), **added.columns}
    return CellResult(row, trace.monitored(), added.crafting, added.images, added.scores)
