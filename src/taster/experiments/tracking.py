"""The cells of a run as runs of MLflow or TensorBoard."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from taster.errors import RecipeError, TrackingError
from taster.experiments.recipes.schema import Recipe
from taster.experiments.run_directory import FinishedCell, RunDirectory
from taster.integrations.tracking.mlflow_tracker import MLflowTracker, check_mlflow_store, has_mlflow_run
from taster.integrations.tracking.tensorboard_tracker import TensorBoardTracker, check_log_folder
from taster.integrations.tracking.tracker import Tracker, finite_numbers, require
from taster.utils.flat import flat

TrackingLibrary = Literal["mlflow", "tensorboard"]

_DIGEST = "taster.cell"
"""The tag that tells a cell with its results from all others."""


def track_run(run: RunDirectory, library: str, to: str | None = None) -> int:
    """Hands the finished cells of a run to a tracking library, each as a run with the cell's settings, the numbers of
    its steps, and its row of results.json. A cell that is there already is left as it is, so that it is there once
    however often a run is resumed.

    Args:
        run: its directory.
        library: "mlflow" or "tensorboard".
        to: the URI of MLflow's server or store, None for MLflow's own choice; TensorBoard's folder, None for the folder
            "tensorboard" in the run directory.

    Returns:
        how many cells were handed over.

    Raises:
        RecipeError: for another library.
        ExtraError: if it is not installed.
        TrackingError: if it cannot be written.
        RunDirectoryError: if the run cannot be read.
    """
    check_tracking(library)
    recipe = run.recipe()
    shelf: _Shelf = _InMLflow(recipe.name, to) if library == "mlflow" else _InTensorBoard(run, to)
    added = 0
    for cell in run.finished(recipe):
        digest = hashlib.sha256(cell["cell"].contents()["cell.json"]).hexdigest()[:16]
        if not shelf.has(cell, digest):
            shelf.add(cell, digest, recipe)
            added += 1
    return added


def check_tracking(library: str) -> None:
    """Checks that a run can be tracked by this library, before it begins.

    Raises:
        RecipeError: for one that is not known.
        ExtraError: if it is not installed.
    """
    if library not in get_args(TrackingLibrary):
        raise RecipeError(f"track: got {library!r}, wanted one of {', '.join(get_args(TrackingLibrary))}")
    require(library, {"mlflow": "MLflow", "tensorboard": "TensorBoard"}[library])


def check_store(library: str, to: str | None = None) -> None:
    """Checks that the library's store can be written, before a run begins whose results are meant for it.

    Args:
        library: "mlflow" or "tensorboard", installed.
        to: as in `track_run`.

    Raises:
        TrackingError: if it cannot be used: no server answers, or a folder cannot be made there.
    """
    if library == "mlflow":
        check_mlflow_store(to)
    elif to is not None:
        check_log_folder(to)


class _Shelf(Protocol):
    """Where a library keeps the cells of a run."""

    def has(self, cell: FinishedCell, digest: str) -> bool:
        """Whether the cell is there, whole."""

    def add(self, cell: FinishedCell, digest: str, recipe: Recipe) -> None:
        """Adds it."""


class _InMLflow:
    """An experiment with the recipe's name."""

    def __init__(self, experiment: str, uri: str | None) -> None:
        self._experiment = experiment
        self._uri = uri

    def has(self, cell: FinishedCell, digest: str) -> bool:  # noqa: ARG002 (a digest tells all cells apart)
        return has_mlflow_run(_DIGEST, digest, uri=self._uri, experiment=self._experiment)

    def add(self, cell: FinishedCell, digest: str, recipe: Recipe) -> None:
        row = cell["row"]
        tracker = MLflowTracker(
            f"{row['attack']} x {row['defence']}, seed {row['seed']}",
            uri=self._uri,
            experiment=self._experiment,
            tags={_DIGEST: digest},
        )
        _log_cell(cell, recipe, tracker)


class _InTensorBoard:
    """A folder with a folder for each cell, which appears whole or not at all."""

    def __init__(self, run: RunDirectory, to: str | None) -> None:
        self._folder = run.path / "tensorboard" if to is None else Path(to) / run.path.resolve().name

    def has(self, cell: FinishedCell, digest: str) -> bool:
        return self._path(cell, digest).is_dir()

    def add(self, cell: FinishedCell, digest: str, recipe: Recipe) -> None:
        path = self._path(cell, digest)
        half = path.with_name(f".{path.name}.part")
        try:
            if half.is_dir():
                for left in half.iterdir():  # of a process that was killed
                    left.unlink()
            _log_cell(cell, recipe, TensorBoardTracker(half))
            half.rename(path)
        except OSError as error:
            raise TrackingError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _path(self, cell: FinishedCell, digest: str) -> Path:
        return self._folder / f"{cell['cell'].path.name}--{digest[:8]}"


def _log_cell(cell: FinishedCell, recipe: Recipe, tracker: Tracker) -> None:
    tracker.log_settings(_settings(cell, recipe))
    for number, line in enumerate(cell["steps"]):
        numbers = finite_numbers(_measured(line), "steps/")
        tracker.log_numbers(numbers, number)
    tracker.log_numbers(finite_numbers(_measured(cell["row"]), "row/"), len(cell["steps"]))
    tracker.close()


def _settings(cell: FinishedCell, recipe: Recipe) -> dict[str, Any]:
    """The recipe's settings as far as they are this cell's: its attack, its defence and its seed, and all that is
    common to the cells."""
    row, settings = cell["row"], recipe.to_dict()
    for kind in ("attack", "defence"):
        entries = getattr(recipe, kind)
        place = next(i for i, entry in enumerate(entries) if entry.label == row[kind])
        settings[kind] = settings[kind][place]
    settings.pop("seeds", None)
    return flat({**settings, "seed": row["seed"]})


def _measured(line: Any) -> dict[str, Any]:
    """All numbers of a row or of a step by their path, without what tells the cell."""
    return {name: value for name, value in flat(line).items() if name not in ("attack", "defence", "seed")}
