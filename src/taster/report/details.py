"""What a page shows that results.json does not hold: curves, histograms of scores, refusals. Kept in details.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from taster.core.step_record import Phase
from taster.utils.compact_json import dump_compact

BINS = 40
"""Of a histogram of scores."""


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CraftingCurve(_Part):
    """Test accuracy in % after one update on each iteration's poison, and the attacker's loss (None: not finite).

    `clean_accuracy` is that of the learner without any update.
    """

    clean_accuracy: float
    accuracy: list[float]
    loss: list[float | None]


class CellCurves(_Part):
    """One cell's test accuracies in %: at the start, then after each step, None where it was not measured."""

    attack: str
    defence: str
    seed: int
    test_accuracy: list[float | None]
    crafting: CraftingCurve | None = None


class PoisonedDensity(_Part):
    """How one attack's poisoned samples of one phase are distributed over the bins of a `ScoreHistogram`."""

    attack: str
    phase: str
    density: list[float]


class ScoreHistogram(_Part):
    """Densities of a score over equal bins from `low` to `high`, of all seeds, behind the recipe's first defence."""

    score: str
    low: float
    high: float
    clean: list[float]
    poisoned: list[PoisonedDensity]


class Refusals(_Part):
    """How many of an attack's steps in one phase one stage of a guard refused, with the reason it gave first."""

    defence: str
    attack: str
    phase: str
    stage: str
    refused: int
    steps: int
    reason: str


class IdlePhase(_Part):
    """A phase that an attack had steps of and in which it changed nothing, whatever the defence and the seed."""

    attack: str
    phase: str


class TrainingCurve(_Part):
    """One cell of an offline recipe by epoch: test accuracy and success of the attack in %, and the losses of clean and
    of poisoned training samples; None where it was not measured."""

    attack: str
    defence: str
    seed: int
    epochs: list[int]
    test_accuracy: list[float | None]
    success: list[float | None]
    loss_clean: list[float | None]
    loss_poisoned: list[float | None]


class Details(_Part):
    """The content of details.json; `derivatives` are the attacks by the method that computed their derivatives."""

    cells: list[CellCurves] = []
    trainings: list[TrainingCurve] = []
    histograms: list[ScoreHistogram] = []
    refusals: list[Refusals] = []
    idle: list[IdlePhase] = []
    derivatives: dict[str, list[str]] = {}

    def to_json(self) -> str:
        """One line for each cell, histogram and refusal."""
        return dump_compact(self.model_dump(exclude_defaults=True))


def collect_details(cells: Sequence[Mapping[str, Any]], first_defence: str, scores: Sequence[str]) -> Details:
    """Gathers the details of a run.

    Args:
        cells: of `RunDirectory.finished`.
        first_defence: label of the defence whose scores are drawn.
        scores: labels of the recipe's scores.
    """
    found = [_histogram(label, [c for c in cells if c["row"]["defence"] == first_defence]) for label in scores]
    return Details(
        cells=[_curves(cell) for cell in cells],
        histograms=[histogram for histogram in found if histogram is not None],
        refusals=_refusals(cells),
        idle=_idle_phases(cells),
        derivatives=_derivatives(cells),
    )


def collect_offline_details(cells: Sequence[Mapping[str, Any]]) -> Details:
    """Gathers the details of a run of an offline recipe.

    Args:
        cells: of `RunDirectory.finished`.
    """
    return Details(trainings=[_training(cell) for cell in cells])


def _training(cell: Mapping[str, Any]) -> TrainingCurve:
    row = cell["row"]
    lines = [line for line in cell["steps"] if line["test_accuracy"] is not None]  # what was measured at all

    def rounded(key: str, *others: str) -> list[float | None]:
        values = [next((line[k] for k in (key, *others) if line.get(k) is not None), None) for line in lines]
        return [None if value is None else _significant(value) for value in values]

    return TrainingCurve(
        attack=row["attack"],
        defence=row["defence"],
        seed=row["seed"],
        epochs=[line["epoch"] for line in lines],
        test_accuracy=rounded("test_accuracy"),
        success=rounded("asr", "target_success"),
        loss_clean=rounded("loss_clean"),
        loss_poisoned=rounded("loss_poisoned"),
    )


def _curves(cell: Mapping[str, Any]) -> CellCurves:
    row, crafting = cell["row"], cell.get("forming")
    accuracy = [row["acc_start"], *(step["test_accuracy"] for step in cell["steps"])]
    return CellCurves(
        attack=row["attack"],
        defence=row["defence"],
        seed=row["seed"],
        test_accuracy=[None if value is None else round(value, 3) for value in accuracy],
        crafting=None
        if not crafting
        else CraftingCurve(
            clean_accuracy=round(crafting["untouched"], 3),
            accuracy=[round(value, 3) for value in crafting["accuracy"]],
            loss=[None if loss is None else _significant(loss) for loss in crafting["loss"]],
        ),
    )


def _histogram(score: str, cells: Sequence[Mapping[str, Any]]) -> ScoreHistogram | None:
    """Of one score; None where no attack changed a sample, or no value is finite."""
    clean: list[torch.Tensor] = []
    poisoned: dict[tuple[str, str], list[torch.Tensor]] = {}
    for cell in cells:
        by_phase: Mapping[str, Any] = (cell["cell"].scores() or {}).get(score) or {}
        for phase, values in by_phase.items():
            if "poisoned" in values:
                clean.append(values["clean"])
                poisoned.setdefault((cell["row"]["attack"], phase), []).append(values["poisoned"])
    every = (
        torch.cat([*clean, *(part for parts in poisoned.values() for part in parts)]) if poisoned else torch.empty(0)
    )
    every = every[every.isfinite()]
    if len(every) == 0:
        return None
    # A few far values would leave the others in one bin; they are counted in the outermost.
    low, high = float(every.quantile(0.005)), float(every.quantile(0.99))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    return ScoreHistogram(
        score=score,
        low=low,
        high=high,
        clean=_density(clean, low, high),
        poisoned=[
            PoisonedDensity(attack=attack, phase=phase, density=_density(parts, low, high))
            for (attack, phase), parts in poisoned.items()
        ],
    )


def _density(parts: Sequence[torch.Tensor], low: float, high: float) -> list[float]:
    values = torch.cat(list(parts)).clamp(low, high)
    counts, _ = np.histogram(values[~values.isnan()].numpy(), BINS, (low, high))
    width = (high - low) / BINS
    return [_significant(count / (max(1, counts.sum()) * width)) for count in counts]


def _significant(value: float) -> float:
    return float(f"{value:.4g}")


def _refusals(cells: Sequence[Mapping[str, Any]]) -> list[Refusals]:
    counts: Counter[tuple[str, str, str, str]] = Counter()
    reasons: dict[tuple[str, str, str, str], str] = {}
    steps: Counter[tuple[str, str, str]] = Counter()
    for cell in cells:
        for step in cell["steps"]:
            where = (step["defence"], step["attack"], step["phase"])
            steps[where] += 1
            if step["verdict"] != "COMMIT":
                counts[(*where, step["stage"])] += 1
                reasons.setdefault((*where, step["stage"]), step["reason"])
    return [
        Refusals(
            defence=defence,
            attack=attack,
            phase=phase,
            stage=stage,
            refused=count,
            steps=steps[(defence, attack, phase)],
            reason=reasons[(defence, attack, phase, stage)],
        )
        for (defence, attack, phase, stage), count in counts.items()
    ]


def _idle_phases(cells: Sequence[Mapping[str, Any]]) -> list[IdlePhase]:
    poisoned: Counter[tuple[str, str]] = Counter()
    for cell in cells:
        for step in cell["steps"]:
            poisoned[(step["attack"], step["phase"])] += step["poisoned"]
    return [
        IdlePhase(attack=attack, phase=phase)
        for (attack, phase), count in poisoned.items()
        if count == 0 and phase != Phase.DORMANT.value
    ]


def _derivatives(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell in cells:
        for step in cell["steps"]:
            if step["derivatives"] is not None and step["attack"] not in found.setdefault(step["derivatives"], []):
                found[step["derivatives"]].append(step["attack"])
    return found
