"""A run directory: the whole truth of a run, readable at any moment of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from pydantic import TypeAdapter

from taster.core.checkpoint import is_partial, load_state, save_state, write_atomically
from taster.errors import RecipeError, RunDirectoryError
from taster.experiments.cell_directory import CellDirectory, json_text, writing
from taster.experiments.files import check_mark, read_bytes, read_json
from taster.experiments.recipes.files import read_recipe
from taster.experiments.recipes.schema import Recipe
from taster.experiments.results import RUN, AnyLine, AnyRow, CellKey, CraftingCourse, Environment, FailedCell, Results
from taster.experiments.run_lock import LOCK_NAME, is_locked, lock_directory
from taster.utils.compact_json import dump_compact

_RESULTS = TypeAdapter(Results)
_ENVIRONMENT = TypeAdapter(Environment)


class FinishedCell(TypedDict):
    """What a finished cell left, for the report."""

    row: AnyRow
    steps: list[AnyLine]
    forming: CraftingCourse | None
    cell: CellDirectory


class RunDirectory:
    """The files of one run.

        recipe.toml        complete, defaults filled in; written first
        environment.json   versions, device, commit, threads
        burn_in/           one safetensors file for each seed
        cells/             one folder for each cell of the grid
        steps.jsonl        all cells' steps, one JSON line each
        results.json       one row for each finished cell
        details.json, pictures.json
                           curves and pictures, all that the page needs beside the files above
        overview.png, figures/, report.html

    A cell is done when its cell.json exists, which appears whole or not at all. So a run killed at any moment loses
    only the cells it was in. While a process runs in the directory it holds a lock on it.

    Raises (all methods that write):
        RunDirectoryError: if the directory cannot be made or written, or the disk is full.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Path = Path(path)

    def exists(self) -> bool:
        """Whether a run has begun here."""
        with writing(self.path):
            return (self.path / "recipe.toml").is_file()

    def complete(self) -> bool:
        """Whether the run's first files were written, all of them."""
        return self.exists() and (self.path / "environment.json").is_file()

    def has_cells(self) -> bool:
        """Whether the cells of a run are here, finished or not; a result that is kept by itself has none."""
        return (self.path / "cells").is_dir()

    def is_empty(self) -> bool:
        """Whether nothing is here, or an empty folder."""
        with writing(self.path):
            if not self.path.exists():
                return True
            # A file that was being written when its run was killed is nothing yet.
            return self.path.is_dir() and all(is_partial(p) or p.name == LOCK_NAME for p in self.path.iterdir())

    def is_free(self) -> bool:
        """Whether a new run may begin here: it is empty, and no other process has claimed it."""
        with writing(self.path):
            return self.is_empty() and not is_locked(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the directory if it is missing, and holds its lock.

        Raises:
            RunDirectoryError: if another process holds it, saying which and since when.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with lock_directory(self.path):
            yield

    def begin(self, recipe: Recipe, environment: Environment) -> None:
        """Writes recipe and environment."""
        self._write("recipe.toml", recipe.to_toml())
        self._write("environment.json", json_text({**RUN.mark(), **environment}))

    def recipe(self) -> Recipe:
        """The recipe of the run.

        Raises:
            RunDirectoryError: if this is not a run directory, or one of a newer format.
        """
        if not self.exists():
            raise RunDirectoryError(f"{self.path}: not a run directory (no recipe.toml in it)")
        # Before its recipe, which may have another form too.
        check_mark(self.path / "environment.json", RUN)
        try:
            return read_recipe(str(self.path / "recipe.toml"))
        except RecipeError as error:
            raise RunDirectoryError(f"{self.path}: its recipe cannot be used: {error}") from error

    def environment(self) -> Environment:
        """What the run ran on.

        Raises:
            RunDirectoryError: if environment.json cannot be read, or is of a newer format.
        """
        return read_json(self.path / "environment.json", _ENVIRONMENT, RUN)

    def results(self) -> Results:
        """The content of results.json.

        Raises:
            RunDirectoryError: if it cannot be read, or has another format or shape.
        """
        return read_json(self.path / "results.json", _RESULTS, RUN)

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the report."""
        self._write(name, text)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes a picture."""
        self._write(name, content)

    def burn_in(self, seed: int) -> Any:
        """A seed's burnt-in state; None if there is none yet."""
        path = self._burn_in_path(seed)
        return load_state(path) if path.is_file() else None

    def has_burn_in(self, seed: int) -> bool:
        """Whether a seed's burnt-in state has been written."""
        return self._burn_in_path(seed).is_file()

    def write_burn_in(self, seed: int, state: Any) -> None:
        """Writes a seed's burnt-in state."""
        with writing(self.path):
            self._burn_in_path(seed).parent.mkdir(parents=True, exist_ok=True)
            save_state(self._burn_in_path(seed), state)

    def burn_in_bytes(self, seed: int) -> bytes | None:
        """The file of a seed's burnt-in state, for another machine; None if there is none yet.

        Raises:
            RunDirectoryError: if it cannot be read.
        """
        return read_bytes(self._burn_in_path(seed)) if self.has_burn_in(seed) else None

    def write_burn_in_bytes(self, seed: int, content: bytes) -> None:
        """Writes the file that another machine's `burn_in_bytes` returned."""
        self._write(f"burn_in/{self._burn_in_path(seed).name}", content)

    def cell(self, attack: str, defence: str, seed: int) -> CellDirectory:
        """The folder of one cell."""
        # The digest keeps labels apart that differ only in what a file name cannot hold.
        digest = hashlib.sha256(json.dumps([attack, defence]).encode()).hexdigest()[:6]
        name = f"{_slug(attack)}--{_slug(defence)}--{digest}--{seed}"
        return CellDirectory(self.path / "cells" / name, CellKey(attack=attack, defence=defence, seed=seed))

    def gather(self, recipe: Recipe) -> list[AnyRow]:
        """Writes results.json from the finished cells, in the order of the grid; returns its rows."""
        rows = [cell.read()["row"] for cell in self._cells(recipe) if cell.done()]
        self.write_results(recipe, rows)
        return rows

    def failures(self, recipe: Recipe) -> list[FailedCell]:
        """The cells that came to no result, in the order of the grid."""
        return [found for cell in self._cells(recipe) if (found := cell.failure()) is not None]

    def write_results(self, recipe: Recipe, rows: Sequence[AnyRow]) -> None:
        """Writes results.json, a line for each row, and which cells failed."""
        failed = self.failures(recipe)
        self._write(
            "results.json",
            dump_compact({**RUN.mark(), "recipe": recipe.name, "rows": rows, **({"failed": failed} if failed else {})}),
        )

    def gather_steps(self, recipe: Recipe) -> None:
        """Writes steps.jsonl from the finished cells, in the order of the grid."""
        self._write("steps.jsonl", b"".join(cell.steps_text() for cell in self._cells(recipe) if cell.done()))

    def finished(self, recipe: Recipe) -> Iterator[FinishedCell]:
        """What each finished cell left.

        Raises:
            RunDirectoryError: if a file of a cell cannot be read, has another shape, or is of another cell.
        """
        for cell in self._cells(recipe):
            if cell.done():
                content: Any = cell.read()
                yield FinishedCell(row=content["row"], steps=cell.steps(), forming=content.get("forming"), cell=cell)

    def _cells(self, recipe: Recipe) -> Iterator[CellDirectory]:
        for attack in recipe.attack:
            for defence in recipe.defence:
                for seed in recipe.seeds:
                    yield self.cell(attack.label, defence.label, seed)

    def _burn_in_path(self, seed: int) -> Path:
        return self.path / "burn_in" / f"seed-{seed}.safetensors"

    def _write(self, name: str, content: str | bytes) -> None:
        path = self.path / name
        with writing(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.encode() if isinstance(content, str) else content)


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", label)[:_SLUG_LENGTH]


_SLUG_LENGTH = 60
"""Characters of a label in a folder's name."""
