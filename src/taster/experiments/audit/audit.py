"""An audit: a look at model and data, a first pass in seconds, and the recipe of the whole suite."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taster.core.guard import Guard
from taster.errors import CheckpointError, ModelError, RecipeError
from taster.experiments.audit.findings import Findings, examine
from taster.experiments.audit.plan import Speed, burn_in_epochs, stream_size, training_size
from taster.experiments.audit.request import AuditRequest
from taster.experiments.audit.shares import batch_size
from taster.experiments.audit.suite import Size, Suite
from taster.experiments.audit.trial import Trials, try_learning_rates
from taster.experiments.environment import available_cores
from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.recipes.overrides import apply_override
from taster.experiments.recipes.schema import Recipe
from taster.experiments.results import AnyRow
from taster.experiments.running.dry_run import dry_run
from taster.experiments.running.progress import DecodingProgress, Progress
from taster.experiments.running.runner import run_recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.builders import make_learner
from taster.experiments.scenarios.burn_in import burn_in, make_model
from taster.experiments.scenarios.context import SeedContext
from taster.experiments.scenarios.weights import read_weights
from taster.utils.import_path import import_callable, is_import_path
from taster.utils.logging import suppress_log_messages

_FIRST_STEPS, _FIRST_PGD_STEPS, _FIRST_EPOCHS = 4, 2, 2
_FIRST_BURN_IN = 6.0
"""Seconds of the burn-in before the first table."""
_SHARE_OF_TRIALS, _SHARE_OF_BURN_INS, _SHARE_OF_SUITE = 0.02, 0.2, 0.7
"""Of the budget: for trying learning rates, for burn-ins; and of what is left then, for the cells, as estimates err."""
_ABOVE_CHANCE = 5.0
"""Points over always guessing the most frequent class under which there is nothing to break."""


class Audit:
    """The audit of one model on one data set.

        audit = Audit(AuditRequest("my_model:make", "photos", budget=5), NoProgress(), print)
        recipe, rows = audit.first_pass()
        rows = run_recipe(audit.recipe(), "runs/mine")

    The constructor loads the data, makes the model, and tries learning rates, so that a user's mistakes show at once.

    Args:
        request: what is audited.
        progress: receives the progress of what takes long.
        say: is given lines for people.

    Raises:
        DataError, ModelError, CheckpointError, RecipeError: for a model, weights or data that do not fit each other.
    """

    def __init__(self, request: AuditRequest, progress: Progress, say: Callable[[str], None]) -> None:
        self._began = time.perf_counter()
        self._request = request
        self._progress = progress
        self._say = say
        _check_files(request)
        self.findings = examine(request, DecodingProgress(progress))
        say(f"data: {self.findings.describe()}")
        self._scene = request.scene or self.findings.scene
        _check_scene(request, self.findings, self._scene)
        draft = self._parse(Suite(request, self.findings, self._scene, 0.01).recipe(Size(1, 2, 1, 1)))
        context = _checked(draft, self.findings, progress)
        trials = try_learning_rates(context, batch_size(self.findings), _SHARE_OF_TRIALS * self._seconds())
        self._trials = trials if request.learning_rate is None else Trials(request.learning_rate, trials.step_seconds)
        self._suite = Suite(request, self.findings, self._scene, self._trials.learning_rate)
        say(
            f"model: takes them; {1000 * trials.step_seconds:.0f} ms a step, "
            f"learning rate {self._trials.learning_rate:g}"
        )
        trained_on = len(context.roles["burn_in"] if self._scene == "online" else context.roles["train"])
        self._epoch_seconds = trials.step_seconds * max(1, trained_on // batch_size(self.findings))
        self._speed: Speed | None = None
        self._cell_epoch_seconds = self._epoch_seconds

    def first_pass(self) -> tuple[Recipe, list[AnyRow]]:
        """A few attacks with few steps, by themselves, to have a first table and to measure the speed.

        Returns:
            the recipe of the first pass, and its rows.
        """
        epochs = 0
        if self._scene == "online" and self._request.weights is None:
            epochs = min(burn_in_epochs(self._epoch_seconds, _FIRST_BURN_IN), self._epochs())
        steps = _FIRST_STEPS if self._scene == "online" else _FIRST_EPOCHS
        recipe = self._parse(self._suite.recipe(Size(1, steps, _FIRST_PGD_STEPS, epochs), small=True), of_suite=False)
        with tempfile.TemporaryDirectory(prefix="taster-audit-") as folder:
            rows = run_recipe(recipe, Path(folder) / "run", progress=self._progress)
        if self._scene == "online":
            labels = {entry.name: entry.label for entry in recipe.attack}
            self._speed = Speed.of_stream(rows, labels, _FIRST_PGD_STEPS)
        else:
            slowest = max(float(row["seconds_training"]) for row in rows)  # type: ignore[typeddict-item]
            self._cell_epoch_seconds = slowest / _FIRST_EPOCHS
        return recipe, rows

    def recipe(self) -> Recipe:
        """The recipe of the whole suite, as large as the budget allows. Its floor is set from the accuracy measured on
        the monitor's samples after the burn-in, or with the weights given.

        Raises:
            ModelError: if the model does no better than chance, so that there is nothing to break.
        """
        if self._speed is None and self._scene == "online":
            self.first_pass()
        left = self._request.budget * 60 - (time.perf_counter() - self._began)
        if self._scene == "offline":
            cells = self._parse(self._suite.recipe(Size(1, 2, 1, 0)))
            grid = len(cells.attack) * len(cells.defence)
            seconds = _SHARE_OF_SUITE * left
            size = training_size(self._cell_epoch_seconds, seconds, grid, available_cores(), self._request.seeds)
            return self._parse(self._suite.recipe(size))
        assert self._speed is not None
        epochs = 0 if self._request.weights is not None else self._epochs()
        accuracy = self._measure(Size(1, 2, 1, epochs))
        self._say(f"accuracy before any attack: {accuracy:.1f} %")
        left = self._request.budget * 60 - (time.perf_counter() - self._began)
        left -= 0 if self._request.weights is not None else self._burn_ins_seconds(epochs)
        defences = len(self._parse(self._suite.recipe(Size(1, 2, 1, epochs))).defence)
        size = stream_size(
            self._speed, _SHARE_OF_SUITE * left, defences, available_cores(), epochs, self._request.seeds
        )
        needs = self._speed.suite_seconds(size, defences, available_cores())
        if needs > left:
            self._say(f"the smallest suite takes about {needs / 60:.0f} minutes, more than is left of --budget")
        return self._parse(self._suite.recipe(size, accuracy=accuracy))

    def _measure(self, size: Size) -> float:
        """The accuracy on the monitor's samples of the first seed before any attack, in %."""
        recipe = self._parse(self._suite.recipe(size))
        context = seed_context(recipe, recipe.seeds[0])
        steps = recipe.burn_in.epochs * (len(context.roles["burn_in"]) // recipe.burn_in.batch_size)
        self._progress.begin("measure the accuracy", steps)
        with suppress_log_messages("taster.core.learner"):
            state = burn_in(context, lambda: self._progress.step("measure the accuracy", 1, "burn-in, seed 0"))
            monitor = context.batches["monitor"]
            accuracy = make_learner(context, state, Guard()).view().accuracy(monitor.x, monitor.y)
        least = self.findings.largest + _ABOVE_CHANCE
        if accuracy < least:
            raise ModelError(
                f"the model is right on {accuracy:.1f} % of samples, where always guessing the largest class is right "
                f"on {self.findings.largest:.1f} %: there is nothing to break. {self._why_chance(size)}"
            )
        return accuracy

    def _why_chance(self, size: Size) -> str:
        if self._request.weights is not None:
            names = ", ".join(self.findings.names[:6])
            return (
                f"Do the weights expect other classes or another order (here: {names or 'numbers'}), or normalized "
                "pixels (samples are in [0, 1]: normalize inside the model)?"
            )
        return f"It was trained for {size.epochs} epochs: give --weights, a longer --budget or a --learning-rate."

    def _epochs(self) -> int:
        """Epochs of the burn-in of each seed."""
        seeds = self._request.seeds or 3
        return burn_in_epochs(
            self._epoch_seconds, _SHARE_OF_BURN_INS * self._seconds() * min(available_cores(), seeds) / seeds
        )

    def _burn_ins_seconds(self, epochs: int) -> float:
        return (self._request.seeds or 3) * epochs * self._epoch_seconds / available_cores()

    def _seconds(self) -> float:
        return 60 * self._request.budget

    def _parse(self, raw: dict[str, Any], *, of_suite: bool = True) -> Recipe:
        """The recipe with the user's own values in it. Those that only the suite has entries for are left out of the
        first pass."""
        for override in self._request.overrides:
            if of_suite or not override.lstrip().startswith(("attack", "defence", "seeds", "schedule")):
                apply_override(raw, override)
        return parse_recipe(raw, "audit")


def _check_scene(request: AuditRequest, findings: Findings, scene: str) -> None:
    if scene == "online" and findings.scene == "offline":
        raise RecipeError(f"--scenario: got online with {findings.kind}, wanted offline: a stream is of images")
    if scene == "offline" and request.weights is not None:
        raise RecipeError(
            "--weights: got some with training on a set, which starts from random weights; wanted none, or for images "
            "--scenario online"
        )


def _check_files(request: AuditRequest) -> None:
    """Imports the model's function and reads the weights, so that what is missing shows before data are decoded.

    Raises:
        ModelError: if there is no such module or function.
        CheckpointError: see `read_weights`.
    """
    if is_import_path(request.model):
        try:
            import_callable(request.model, ModelError)
        except ModelError as error:
            raise ModelError(f"--model: {error}") from error
    if request.weights is not None:
        try:
            read_weights(request.weights)
        except CheckpointError as error:
            raise CheckpointError(f"--weights: {error}") from error


def _checked(draft: Recipe, findings: Findings, progress: Progress) -> SeedContext:
    """The context of the first seed, after everything has been made once.

    Raises:
        ModelError: with what the user can do about it.
        DataError, CheckpointError, RecipeError: see `dry_run`.
    """
    context = seed_context(draft, draft.seeds[0], DecodingProgress(progress))
    try:
        make_model(draft, context.data.shape, context.data.classes, context.device)
    except ModelError as error:
        raise ModelError(f"--model: {_without_key(error)}") from error
    try:
        return dry_run(draft, progress)
    except ModelError as error:
        raise ModelError(f"--model: {_without_key(error)}\n{_what_models_get(findings)}") from error
    except CheckpointError as error:
        raise CheckpointError(f"--weights: {error}") from error


def _without_key(error: ModelError) -> str:
    return str(error).removeprefix("model.name: ")


def _what_models_get(findings: Findings) -> str:
    told = "A factory with the parameters (shape, classes) is told both."
    classes = (
        f"The data have {findings.classes} classes{': ' + ', '.join(findings.names[:12]) if findings.names else ''}"
    )
    if "table" in findings.section:
        return f"Rows come as [n, columns], scaled to [0, 1]. {classes}. {told}"
    return (
        "Images come as [n, channels, height, width] in [0, 1]; --resize HEIGHTxWIDTH and --color gray or rgb make "
        f"others of them. {classes}. {told}"
    )
