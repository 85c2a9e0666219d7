"""How large a suite fits the time that is left, by the speeds of a first look and of a rehearsal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taster.experiments.audit.suite import (
    EXTENTS,
    FEWEST_STEPS,
    STRIKES_AFTER,
    Extent,
    Size,
    evaluate_every,
)
from taster.experiments.recipes.schema import Recipe
from taster.experiments.results import AnyRow

ENOUGH_SEEDS = 3
"""From which on a page claims anything."""
_ENOUGH_STEPS, _MOST_STEPS, _MOST_SEEDS = 60, 200, 10
_EPOCHS = (30, 20, 10, 5, 3, 2)
_LIKE_ATTACK = {"patch_backdoor": "label_flip", "random_noise": "none"}
_LIKE_DEFENCE = {"clipping": "none", "accuracy_monitor": "guard"}
"""Whose speed is taken for one that was not timed."""

_TESTS_BESIDE = 3
"""Measurements on the test samples at the start of a stream and about its last step."""

Cell = tuple[str, str]
"""An attack and a defence by the names of their functions."""


@dataclass(frozen=True)
class Timing:
    """How long the cells of a run took.

    Attributes:
        steps: of each cell, its last one included.
        seconds: of each cell by its functions' names, without what it took to make it.
        test_seconds: of one measurement on the test samples.
        falls: points of accuracy that each cell lost, by its functions' names.
    """

    steps: int
    seconds: Mapping[Cell, float]
    test_seconds: float
    falls: Mapping[Cell, float] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, rows: Sequence[AnyRow], test_seconds: float) -> Timing:
        """From the rows of a run.

        Args:
            recipe: of the run, too short for measurements along it (see `evaluate_every`); no attack strikes early.
            rows: with `seconds`.
            test_seconds: of one measurement on the test samples.
        """
        attacks = {entry.label: entry.name for entry in recipe.attack}
        defences = {entry.label: entry.name for entry in recipe.defence}
        named: dict[Cell, Any] = {(attacks[row["attack"]], defences[row["defence"]]): row for row in rows}
        seconds = {cell: float(row["seconds"]) for cell, row in named.items()}
        falls = {cell: float(row["acc_start"] - row["acc_after"]) for cell, row in named.items()}
        return cls(recipe.schedule.steps + 1, seconds, test_seconds, falls)

    def step_seconds(self) -> dict[Cell, float]:
        """Of a step of each cell: what is left of its seconds after the measurements on the test samples."""
        return {
            cell: max(seconds - (_TESTS_BESIDE + 1) * self.test_seconds, 0.1 * seconds) / self.steps
            for cell, seconds in self.seconds.items()
        }


@dataclass(frozen=True)
class Speed:
    """Seconds of a suite of streams in as many processes as it will run in.

    Attributes:
        jobs: processes side by side.
        start: before the first cell and after the last.
        cell: to make a cell.
        test: a measurement on the test samples.
        step: of a step, by cell.
        fall: points of accuracy that are lost in a step, by cell.
    """

    jobs: int
    start: float
    cell: float
    test: float
    step: Mapping[Cell, float]
    fall: Mapping[Cell, float] = field(default_factory=dict)

    @classmethod
    def measured(cls, look: Timing, rehearsal: Timing, *, jobs: int, start: float, cell: float) -> Speed:
        """From a first look, cell by cell in one process, and a rehearsal in all of them. Processes that share cores
        and memory are slower: by how much, the cells tell that both have.

        Args:
            look: of the first look.
            rehearsal: of the rehearsal.
            jobs: processes of the rehearsal and of the suite.
            start: see above.
            cell: to make a cell, in one process.
        """
        alone, beside = look.step_seconds(), rehearsal.step_seconds()
        both = alone.keys() & beside.keys()
        slower = max(1.0, sum(beside[name] for name in both) / sum(alone[name] for name in both))
        step = {**{name: slower * seconds for name, seconds in alone.items()}, **beside}
        fall = {name: lost / timing.steps for timing in (look, rehearsal) for name, lost in timing.falls.items()}
        return cls(jobs, start, slower * cell, slower * look.test_seconds, step, fall)

    @property
    def attacks(self) -> set[str]:
        """Whose speed is known."""
        return {attack for attack, _ in self.step}

    def suite_seconds(self, cells: Sequence[Cell], size: Size) -> float:
        """Of a suite.

        Args:
            cells: of one seed.
            size: of the suite.
        """
        one_seed = sum(self._cell_seconds(cell, size.steps) for cell in cells)
        return self.start + size.seeds * one_seed / self.jobs

    def _cell_seconds(self, cell: Cell, steps: int) -> float:
        """Of one cell, which ends early where its attack reaches the floor."""
        attack, defence = cell
        if attack not in self.attacks:
            attack = _LIKE_ATTACK[attack]
        if (attack, defence) not in self.step:
            defence = _LIKE_DEFENCE[defence]
        fall = 0.0 if attack == "none" else self.fall.get((attack, defence), 0.0)
        made = min(steps, math.ceil(STRIKES_AFTER / fall)) if fall > 0 else steps
        tests = _TESTS_BESIDE + math.ceil(made / evaluate_every(steps))
        return self.cell + tests * self.test + (made + 1) * self.step[attack, defence]


def stream_size(
    speed: Speed,
    seconds: float,
    cells: Mapping[Extent, Sequence[Cell]],
    epochs: int,
    burn_in_seconds: float,
    seeds: int | None,
) -> Size:
    """The largest suite of streams that fits; the smallest, of one seed, if none does.

    Attacks and defences come first, then steps up to 60, seeds up to ten, and steps up to 200; none has fewer than
    20 steps, and a suite of fewer attacks and defences is preferred to one of fewer than three seeds.

    Args:
        speed: as measured.
        seconds: that it may take.
        cells: of one seed, by the extent of the suite; those with an attack whose speed is not known are not taken.
        epochs: of the burn-in.
        burn_in_seconds: of the burn-in of a seed after the first.
        seeds: asked for; None: as many as fit.
    """

    def fits(extent: Extent, n: int, steps: int) -> bool:
        size = Size(n, steps, epochs, extent)
        burn_ins = (n - 1) * burn_in_seconds / min(speed.jobs, max(1, n - 1))
        return burn_ins + speed.suite_seconds(cells[extent], size) <= seconds

    def most(low: int, high: int, extent: Extent, n: int) -> int:
        return max((steps for steps in range(low, high + 1) if fits(extent, n, steps)), default=low)

    known = [extent for extent in EXTENTS if extent in cells and _known(speed, cells[extent])]
    for extent in known:
        n = seeds or ENOUGH_SEEDS
        if fits(extent, n, FEWEST_STEPS):
            steps = most(FEWEST_STEPS, _ENOUGH_STEPS, extent, n)
            if seeds is None and steps == _ENOUGH_STEPS:
                n = max(more for more in range(n, _MOST_SEEDS + 1) if more == n or fits(extent, more, steps))
            return Size(n, most(steps, _MOST_STEPS, extent, n), epochs, extent)
    if seeds is None:
        for extent, n in ((known[-1], 2), (known[-1], 1)):
            if fits(extent, n, FEWEST_STEPS):
                return Size(n, most(FEWEST_STEPS, _ENOUGH_STEPS, extent, n), epochs, extent)
    return Size(seeds or 1, FEWEST_STEPS, epochs, known[-1])


def _known(speed: Speed, cells: Sequence[Cell]) -> bool:
    return all(attack in speed.attacks or attack in _LIKE_ATTACK for attack, _ in cells)


@dataclass(frozen=True)
class TrainingSpeed:
    """Seconds of a suite of trainings in as many processes as it will run in.

    Attributes:
        jobs: processes side by side.
        start: before the first cell and after the last.
        cell: of a cell beside its epochs: to make it, its attack, its measurements.
        epoch: of an epoch of a cell.
    """

    jobs: int
    start: float
    cell: float
    epoch: float

    def suite_seconds(self, cells: int, size: Size) -> float:
        """Of a suite.

        Args:
            cells: of one seed.
            size: of the suite.
        """
        return self.start + size.seeds * cells * (self.cell + size.steps * self.epoch) / self.jobs


def training_size(speed: TrainingSpeed, seconds: float, cells: int, seeds: int | None) -> Size:
    """The largest suite of trainings that fits; the smallest if none does: epochs up to 30 first, then seeds up to ten.

    Args:
        speed: as measured.
        seconds: that all may take.
        cells: of one seed.
        seeds: asked for; None: as many as fit, and where three do, no fewer.
    """

    def fits(n: int, epochs: int) -> bool:
        return speed.suite_seconds(cells, Size(n, epochs, 0)) <= seconds

    counts = [seeds] if seeds else [ENOUGH_SEEDS, 2, 1]
    for n in counts:
        for epochs in _EPOCHS:
            if fits(n, epochs):
                more = [m for m in range(n, _MOST_SEEDS + 1) if fits(m, epochs)] if seeds is None else [n]
                return Size(more[-1], epochs, 0)
    return Size(counts[-1], _EPOCHS[-1], 0)


def burn_in_epochs(epoch_seconds: float, seconds: float, most: int = 30) -> int:
    """Epochs that fit, at least one."""
    return max(1, min(most, int(seconds / max(epoch_seconds, 1e-9))))
