"""An audit: a look at model and data, a first pass in seconds, and the recipe of the whole suite."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from taster.core.guard import Guard
from taster.errors import ModelError
from taster.experiments.audit.checks import check_files, check_scene, checked_context
from taster.experiments.audit.findings import examine
from taster.experiments.audit.plan import (
    ENOUGH_SEEDS,
    Cell,
    Speed,
    Timing,
    TrainingSpeed,
    burn_in_epochs,
    stream_size,
    training_size,
)
from taster.experiments.audit.request import AuditRequest
from taster.experiments.audit.shares import batch_size
from taster.experiments.audit.suite import COSTLY, EXTENTS, FEWEST_STEPS, Extent, Size, Suite
from taster.experiments.audit.trial import STREAM_RATES, RateTrials, trial_steps
from taster.experiments.environment import available_cores, pick_device
from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.recipes.overrides import apply_override
from taster.experiments.recipes.schema import Recipe
from taster.experiments.results import AnyRow
from taster.experiments.running.progress import DecodingProgress, Progress
from taster.experiments.running.runner import run_recipe, share_cores, torch_set_up
from taster.experiments.running.tasks import hold_recipe_data
from taster.experiments.running.workers import start_worker_server
from taster.experiments.scenarios.builders import make_learner
from taster.experiments.scenarios.burn_in import BurnInTraining
from taster.experiments.scenarios.context import BurntIn
from taster.utils.logging import suppress_log_messages

_LOOK = ("none", "label_flip", "vanilla_trigger")
"""Attacks of the first look."""
_LOOK_STEPS, _LOOK_EPOCHS = 4, 2
_STEPS_A_LOOK = 50
"""What a step of each cell of the first look takes together, in steps of plain training."""
_LOOK_SECONDS, _LOOK_BURN_IN = 6.0, 5.0
"""That the first look, and the training before it, may take."""
_SHARE_OF_TRIALS, _SHARE_OF_BURN_INS, _SHARE_OF_REHEARSAL, _SHARE_OF_SUITE = 0.04, 0.2, 0.1, 0.9
"""Of the budget: for trying learning rates, for burn-ins; and of what is left then, for the rehearsal and the suite."""
_SHARE_OF_ALL = 0.5
"""Of what is left of the budget, under which the largest suite takes so little that it is worth a word."""
_CRAFTED_BATCHES, _TRIED_BATCHES = 4, 6
"""What the costly attacks take together for a step: batches crafted, and batches tried on a copy of the guard, about;
says whether they can be rehearsed at all."""
_START_SECONDS = 6.0
"""That a suite takes at least to start its processes and to write its page."""
_ABOVE_CHANCE = 5.0
"""Points over always guessing the most frequent class under which there is nothing to break."""


class Audit:
    """The audit of one model on one data set.

        audit = Audit(AuditRequest("my_model:make", "photos", budget=5), NoProgress(), print)
        recipe, rows = audit.first_pass()
        rows = run_recipe(audit.recipe(), "runs/mine", burnt_in=audit.burnt_in)

    The constructor loads the data, makes the model, measures it if it has weights, and tries learning rates, so that a
    user's mistakes show at once.

    Args:
        request: what is audited.
        progress: receives the progress of what takes long.
        say: is given lines for people.

    Raises:
        DataError, ModelError, CheckpointError, RecipeError: for a model, weights or data that do not fit each other;
            ModelError also if weights do no better than chance, so that there is nothing to break.
    """

    def __init__(self, request: AuditRequest, progress: Progress, say: Callable[[str], None]) -> None:
        self._began = time.perf_counter()
        if available_cores() > 1:
            start_worker_server()
        self._request = request
        self._progress = progress
        self._say = say
        check_files(request)
        self.findings = examine(request, DecodingProgress(progress))
        say(f"data: {self.findings.describe()}")
        self._scene = request.scene or self.findings.scene
        check_scene(request, self.findings, self._scene)
        self._suite = Suite(request, self.findings, self._scene, request.learning_rate or STREAM_RATES[-1])
        draft = self._parse(self._suite.recipe(Size(1, FEWEST_STEPS, 1)))
        if not any(override.lstrip().startswith("data") for override in request.overrides):
            hold_recipe_data(draft, self.findings.loaded)
        self._device = pick_device(draft.compute.device)
        draft, self._jobs = share_cores(draft, self._device, None)
        self._training: BurnInTraining | None = None
        self._accuracy: float | None = None
        self._look: Timing | None = None
        self._cell_seconds: float | None = None
        self._cell_epoch_seconds = 0.0
        with torch_set_up(draft, self._device):
            self._context = checked_context(draft, self.findings, progress)
            if request.weights is not None:
                self._accuracy = self._measure(self._burnt_in(0))
            trials = RateTrials(self._context, batch_size(self.findings))
            step_seconds = trials.step_seconds()
            rate = request.learning_rate or self._choose_rate(trials, step_seconds)
        self._suite = replace(self._suite, learning_rate=rate)
        self._context = replace(self._context, recipe=self._parse(self._suite.recipe(Size(1, FEWEST_STEPS, 1))))
        self._training = None
        self._step_seconds = step_seconds
        trained_on = len(self._context.roles["burn_in" if self._scene == "online" else "train"])
        self._epoch_seconds = step_seconds * max(1, trained_on // batch_size(self.findings))
        say(f"model: takes them; {1000 * step_seconds:.0f} ms a step, learning rate {rate:g}")

    @property
    def burnt_in(self) -> Mapping[int, BurntIn]:
        """The state of the seed that was trained for the first look and `recipe`, to be handed to `run_recipe`, so that
        it is not trained again; empty where nothing is burnt in, or other models are with it."""
        if self._training is None or self._context.recipe.surrogate:
            return {}
        return {self._context.seed: self._training.state()}

    def first_pass(self) -> tuple[Recipe, list[AnyRow]]:
        """A few attacks with few steps, by themselves, to have a first table and to measure the speed.

        Returns:
            the recipe of the first pass, and its rows.
        """
        if self._scene == "offline":
            recipe = self._parse(self._suite.recipe(Size(1, _LOOK_EPOCHS, 0), only=_LOOK), of_suite=False)
            rows, _, of_cells = self._run(recipe, 1)
            training = math.fsum(float(row["seconds_training"]) for row in rows)  # type: ignore[typeddict-item]
            self._cell_epoch_seconds = training / len(rows) / _LOOK_EPOCHS
            self._cell_seconds = max(0.0, (of_cells - training) / len(rows))
            return recipe, rows
        epochs = 0 if self._request.weights else min(burn_in_epochs(self._epoch_seconds, _LOOK_BURN_IN), self._epochs())
        costs = _STEPS_A_LOOK * (_LOOK_STEPS + 1) * self._step_seconds
        steps = _LOOK_STEPS if costs <= _LOOK_SECONDS else 1
        recipe = self._of_one_seed(Size(1, steps, epochs), _LOOK)
        rows, _, of_cells = self._run(recipe, 1, {self._context.seed: self._burnt_in(recipe.burn_in.epochs)})
        self._look = Timing.of(recipe, rows, self._test_seconds())
        self._cell_seconds = max(0.0, (of_cells - sum(self._look.seconds.values())) / len(rows))
        return recipe, rows

    def recipe(self) -> Recipe:
        """The recipe of the whole suite, as large as the budget allows. Its floor is set from the accuracy measured on
        the monitor's samples after the burn-in, or with the weights given.

        Raises:
            ModelError: if the model does no better than chance, so that there is nothing to break.
        """
        if self._cell_seconds is None:
            self.first_pass()
        return self._offline_recipe() if self._scene == "offline" else self._online_recipe()

    def _online_recipe(self) -> Recipe:
        assert self._look is not None
        epochs = 0 if self._request.weights is not None else self._epochs()
        if self._accuracy is None:
            self._accuracy = self._measure(self._burnt_in(self._of_one_seed(Size(1, 1, epochs)).burn_in.epochs))
        self._say(f"accuracy before any attack: {self._accuracy:.1f} %")
        speed = self._rehearse(self._look, epochs)
        extents = self._extents()
        cells = {extent: self._cells(extent) for extent in extents}
        burn_in_seconds = epochs * self._epoch_seconds
        left = self._left()
        size = stream_size(speed, _SHARE_OF_SUITE * left, cells, epochs, burn_in_seconds, self._request.seeds)
        takes = speed.suite_seconds(cells[size.extent], size) + (size.seeds - 1) * burn_in_seconds / self._jobs
        enough = Size(self._request.seeds or ENOUGH_SEEDS, FEWEST_STEPS, epochs, extents[-1])
        needs = speed.suite_seconds(cells[enough.extent], enough) + (enough.seeds - 1) * burn_in_seconds / self._jobs
        recipe = self._parse(self._suite.recipe(size, accuracy=self._accuracy))
        self._say_how_large(recipe, f"{recipe.schedule.steps} steps", takes)
        seeds = self._request.seeds or ENOUGH_SEEDS
        if size.seeds < seeds or takes > left:
            budget = math.ceil((self._seconds() - left + needs / _SHARE_OF_SUITE) / 60)
            self._say(
                f"--budget {self._request.budget:g} is too small for a result: the smallest suite that is one ({seeds} "
                f"seeds, {FEWEST_STEPS} steps) needs about --budget {budget}"
            )
        elif size.extent != extents[0]:
            self._say(
                f"left out, as --budget {self._request.budget:g} has no room for it: {self._left_out(size.extent)}"
            )
        return recipe

    def _say_how_large(self, recipe: Recipe, length: str, takes: float) -> None:
        """Says what is run, and how long it should take."""
        seeds = f"{len(recipe.seeds)} seed{'s' * (len(recipe.seeds) > 1)}"
        self._say(
            f"the suite: {len(recipe.attack)} attacks × {len(recipe.defence)} defences, {seeds}, {length}; "
            f"about {_minutes(takes)}"
        )
        if takes < _SHARE_OF_ALL * self._left():
            self._say(f"that is all that there is to run; the rest of --budget {self._request.budget:g} is not needed")

    def _left_out(self, extent: Extent) -> str:
        """Attacks and defences that a suite of this extent has not."""
        there = [name for part in self._suite.functions(extent) for name in part]
        return ", ".join(name for part in self._suite.functions(EXTENTS[0]) for name in part if name not in there)

    def _offline_recipe(self) -> Recipe:
        assert self._cell_seconds is not None
        cells = self._parse(self._suite.recipe(Size(1, _LOOK_EPOCHS, 0)))
        grid = len(cells.attack) * len(cells.defence)
        left = self._left()
        speed = TrainingSpeed(self._jobs, _START_SECONDS, self._cell_seconds, self._cell_epoch_seconds)
        size = training_size(speed, _SHARE_OF_SUITE * left, grid, self._request.seeds)
        takes = speed.suite_seconds(grid, size)
        recipe = self._parse(self._suite.recipe(size))
        self._say_how_large(recipe, f"{size.steps} epochs", takes)
        if size.seeds < (self._request.seeds or ENOUGH_SEEDS) or takes > left:
            self._say(f"--budget {self._request.budget:g} is too small for a result: give a longer one")
        return recipe

    def _rehearse(self, look: Timing, epochs: int) -> Speed:
        """The speed of a suite, by running those cells of it that the first look had not, and one that it had, with few
        steps in as many processes as the suite; attacks that are too slow even for that are left out."""
        assert self._cell_seconds is not None
        steps = look.step_seconds()
        crafted, guarded = steps["vanilla_trigger", "none"], steps["none", "guard"]
        costs = 2 * look.steps * (_TRIED_BATCHES * guarded + _CRAFTED_BATCHES * crafted) / self._jobs
        affordable = costs <= _SHARE_OF_REHEARSAL * self._seconds() or "small" not in self._extents()
        attacks = ("none", *COSTLY) if affordable else ("none",)
        recipe = self._of_one_seed(
            Size(1, look.steps - 1, self._of_one_seed(Size(1, 1, epochs)).burn_in.epochs), attacks
        )
        rows, seconds, _ = self._run(recipe, self._jobs, self.burnt_in)
        rehearsal = Timing.of(recipe, rows, look.test_seconds)
        made = sum(rehearsal.seconds.values()) + len(rows) * self._cell_seconds
        start = max(_START_SECONDS, seconds - made / min(self._jobs, len(rows)))
        return Speed.measured(look, rehearsal, jobs=self._jobs, start=start, cell=self._cell_seconds)

    def _run(
        self, recipe: Recipe, jobs: int, burnt_in: Mapping[int, BurntIn] | None = None
    ) -> tuple[list[AnyRow], float, float]:
        """Runs a recipe whose files nobody wants; returns its rows, the seconds that it took, and those since its cells
        began."""
        began, clock = time.perf_counter(), _StageClock(self._progress)
        with tempfile.TemporaryDirectory(prefix="taster-audit-") as folder:
            rows = run_recipe(recipe, Path(folder) / "run", jobs=jobs, burnt_in=burnt_in, progress=clock)
        ended = time.perf_counter()
        return rows, ended - began, ended - clock.began

    def _of_one_seed(self, size: Size, only: Sequence[str] | None = None) -> Recipe:
        """A recipe of the seed that this process trains, without the user's settings of the suite."""
        raw = self._suite.recipe(size, only=only)
        return self._parse({**raw, "seeds": [self._context.seed]}, of_suite=False)

    def _extents(self) -> tuple[Extent, ...]:
        """Of suites that can be run: one of which the user has set attacks or defences is run whole."""
        own = any(override.lstrip().startswith(("attack", "defence")) for override in self._request.overrides)
        return EXTENTS[:1] if own else EXTENTS

    def _cells(self, extent: Extent) -> list[Cell]:
        attacks, defences = self._suite.functions(extent)
        return [(attack, defence) for attack in attacks for defence in defences]

    def _choose_rate(self, trials: RateTrials, step_seconds: float) -> float:
        steps = trial_steps(step_seconds, _SHARE_OF_TRIALS * self._seconds())
        if self._request.weights is None:
            return trials.learning_rate(steps)
        rate = trials.stream_rate(steps)
        if rate is None:
            self._say(
                f"no learning rate down to {STREAM_RATES[-1]:g} keeps the model level on honest samples: what it loses "
                "where nobody attacks is no attack's doing"
            )
        return rate or STREAM_RATES[-1]

    def _burnt_in(self, epochs: int) -> BurntIn:
        """The state of this process's seed after so many epochs, those of earlier calls among them."""
        if self._training is None:
            self._training = BurnInTraining(self._context)
        training, stage = self._training, "burn-in"
        steps = (epochs - training.epochs) * (
            len(self._context.roles["burn_in"]) // self._context.recipe.burn_in.batch_size
        )
        if steps > 0:
            self._progress.begin(stage, steps)
        with torch_set_up(self._context.recipe, self._device), suppress_log_messages("taster.core.learner"):
            training.train(epochs, lambda: self._progress.step(stage, 1, f"burn-in, seed {self._context.seed}"))
        return training.state()

    def _measure(self, state: BurntIn) -> float:
        """The accuracy on the monitor's samples, in %.

        Raises:
            ModelError: if it is about that of always guessing the most frequent class.
        """
        monitor = self._context.batches["monitor"]
        accuracy = make_learner(self._context, state, Guard()).view().accuracy(monitor.x, monitor.y)
        if accuracy < self.findings.largest + _ABOVE_CHANCE:
            raise ModelError(
                f"the model is right on {accuracy:.1f} % of samples, where always guessing the largest class is right "
                f"on {self.findings.largest:.1f} %: there is nothing to break. {self._why_chance()}"
            )
        return accuracy

    def _why_chance(self) -> str:
        if self._request.weights is not None:
            names = ", ".join(self.findings.names[:6])
            return (
                f"Do the weights expect other classes or another order (here: {names or 'numbers'}), or normalized "
                "pixels (samples are in [0, 1]: normalize inside the model)?"
            )
        epochs = 0 if self._training is None else self._training.epochs
        return f"It was trained for {epochs} epochs: give --weights, a longer --budget or a --learning-rate."

    def _test_seconds(self) -> float:
        """Of one measurement on the test samples."""
        test = self._context.batches["test"]
        with torch_set_up(self._context.recipe, self._device):
            view = make_learner(self._context, self._burnt_in(0), Guard()).view()
            began = time.perf_counter()
            view.accuracy(test.x, test.y)
        return time.perf_counter() - began

    def _epochs(self) -> int:
        """Epochs of the burn-in of each seed."""
        seeds = self._request.seeds or ENOUGH_SEEDS
        return burn_in_epochs(
            self._epoch_seconds, _SHARE_OF_BURN_INS * self._seconds() * min(self._jobs, seeds) / seeds
        )

    def _seconds(self) -> float:
        return 60 * self._request.budget

    def _left(self) -> float:
        """Seconds of the budget."""
        return self._seconds() - (time.perf_counter() - self._began)

    def _parse(self, raw: dict[str, Any], *, of_suite: bool = True) -> Recipe:
        """The recipe with the user's own values in it. Those that only the suite has entries for are left out of the
        first pass."""
        for override in self._request.overrides:
            if of_suite or not override.lstrip().startswith(("attack", "defence", "seeds", "schedule", "offline")):
                apply_override(raw, override)
        return parse_recipe(raw, "audit")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.1f} minutes"


class _StageClock:
    """Hands progress on, and keeps when the last stage began: that of the cells."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.began = time.perf_counter()

    def begin(self, stage: str, steps: int) -> None:
        self.began = time.perf_counter()
        self._progress.begin(stage, steps)

    def step(self, stage: str, steps: int, title: str) -> None:
        self._progress.step(stage, steps, title)
