"""A run directory: the whole truth of a run, readable at any moment of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taster.core.checkpoint import is_partial, load_state, save_state, write_atomically
from taster.errors import RecipeError, RunDirectoryError
from taster.experiments.recipes.files import read_recipe
from taster.experiments.recipes.schema import Recipe


class RunDirectory:
    """The files of one run.

        recipe.toml        complete, defaults filled in; written first
        environment.json   versions, device, commit, threads
        burn_in/           one safetensors file a seed
        cells/             one folder a cell of the grid: steps.jsonl as it goes, cell.json when it is done
        steps.jsonl        all cells' steps, one JSON line each
        results.json       one row a finished cell
        figures/, report.html

    A cell counts as done when its cell.json is there, which appears whole or not at all; so a run killed at any moment
    loses no more than the cells it was in.

    Raises (all methods that write):
        RunDirectoryError: when the directory cannot be made or written, or the disk is full.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether a run has begun here."""
        try:
            return (self.path / "recipe.toml").is_file()
        except OSError as error:
            raise self._failed(error) from error

    def complete(self) -> bool:
        """Whether the run's beginning was written whole."""
        return self.exists() and (self.path / "environment.json").is_file()

    def is_free(self) -> bool:
        """Whether a new run may begin here: nothing there, or an empty folder."""
        try:
            # A file that was being written when the run was killed is nothing yet.
            return not self.path.exists() or (self.path.is_dir() and all(map(is_partial, self.path.iterdir())))
        except OSError as error:
            raise self._failed(error) from error

    def begin(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        """Makes the directory and writes recipe and environment."""
        self._write("recipe.toml", recipe.to_toml())
        self._write("environment.json", _json(environment))

    def recipe(self) -> Recipe:
        """The recipe of the run.

        Raises:
            RunDirectoryError: when this is no run directory.
        """
        if not self.exists():
            raise RunDirectoryError(f"{self.path}: not a run directory (no recipe.toml in it)")
        try:
            return read_recipe(str(self.path / "recipe.toml"))
        except RecipeError as error:
            raise RunDirectoryError(f"{self.path}: its recipe cannot be used: {error}") from error

    def environment(self) -> dict[str, Any]:
        """What the run ran on."""
        return self._read_json("environment.json")

    def results(self) -> dict[str, Any]:
        """The content of results.json."""
        results = self._read_json("results.json")
        if not isinstance(results.get("rows"), list):
            raise RunDirectoryError(f"{self.path}: results.json has no rows, wanted what taster run writes")
        return results

    def write_results(self, recipe: Recipe, rows: list[dict[str, Any]]) -> None:
        """Writes results.json."""
        self._write("results.json", _json({"recipe": recipe.name, "rows": rows}))

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the report."""
        self._write(name, text)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes a picture."""
        self._write(name, content)

    def burn_in(self, seed: int) -> Any:
        """A seed's burnt-in state; None where there is none yet."""
        path = self._burn_in_path(seed)
        return load_state(path) if path.is_file() else None

    def has_burn_in(self, seed: int) -> bool:
        """Whether a seed's burnt-in state is there."""
        return self._burn_in_path(seed).is_file()

    def write_burn_in(self, seed: int, state: Any) -> None:
        """Keeps a seed's burnt-in state."""
        try:
            self._burn_in_path(seed).parent.mkdir(parents=True, exist_ok=True)
            save_state(self._burn_in_path(seed), state)
        except OSError as error:
            raise self._failed(error) from error

    def cell(self, attack: str, defence: str, seed: int) -> CellDirectory:
        """The folder of one cell."""
        # The digest keeps labels apart that differ only in what a file name cannot hold.
        digest = hashlib.sha256(json.dumps([attack, defence]).encode()).hexdigest()[:6]
        return CellDirectory(self.path / "cells" / f"{_slug(attack)}--{_slug(defence)}--{digest}--{seed}", self)

    def gather(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Writes results.json from the finished cells, in the order of the grid; returns its rows."""
        rows = [cell.read()["row"] for cell in self._cells(recipe) if cell.done()]
        self.write_results(recipe, rows)
        return rows

    def gather_steps(self, recipe: Recipe) -> None:
        """Writes steps.jsonl from the finished cells, in the order of the grid."""
        self._write("steps.jsonl", "".join(cell.steps_text() for cell in self._cells(recipe) if cell.done()))

    def finished(self, recipe: Recipe) -> Iterator[dict[str, Any]]:
        """What each finished cell left: row, steps, and the phase's facts for the report."""
        for cell in self._cells(recipe):
            if cell.done():
                yield {
                    **cell.read(),
                    "steps": [json.loads(line) for line in cell.steps_text().splitlines()],
                    "cell": cell,
                }

    def _cells(self, recipe: Recipe) -> Iterator[CellDirectory]:
        for attack in recipe.attack:
            for defence in recipe.defence:
                for seed in recipe.seeds:
                    yield self.cell(attack.label, defence.label, seed)

    def _burn_in_path(self, seed: int) -> Path:
        return self.path / "burn_in" / f"seed-{seed}.safetensors"

    def _write(self, name: str, content: str | bytes) -> None:
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise self._failed(error) from error

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.path}: {name} cannot be read: {error}") from error
        return content

    def _failed(self, error: OSError) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self.path}: cannot be written: {error.strerror or error}. What is there already is whole; "
            "mend the cause and go on with --resume"
        )


class CellDirectory:
    """The files of one cell of the grid."""

    def __init__(self, path: Path, run: RunDirectory) -> None:
        self.path = path
        self._run = run

    def done(self) -> bool:
        """Whether the cell has run to its end."""
        return (self.path / "cell.json").is_file()

    def begin(self) -> None:
        """Makes the folder and starts an empty steps.jsonl."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "steps.jsonl").write_text("", encoding="utf-8")
        except OSError as error:
            raise self._run._failed(error) from error

    def append(self, step: dict[str, Any]) -> None:
        """Adds one step."""
        try:
            with open(self.path / "steps.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(step, allow_nan=False) + "\n")
        except OSError as error:
            raise self._run._failed(error) from error

    def finish(
        self, content: dict[str, Any], images: dict[str, Any] | None, scores: dict[str, Any] | None = None
    ) -> None:
        """Writes what is left, cell.json last."""
        try:
            if images is not None:
                save_state(self.path / "images.safetensors", images)
            if scores is not None:
                save_state(self.path / "scores.safetensors", scores)
            write_atomically(self.path / "cell.json", _json(content).encode())
        except OSError as error:
            raise self._run._failed(error) from error

    def read(self) -> dict[str, Any]:
        """The content of cell.json."""
        try:
            content: dict[str, Any] = json.loads((self.path / "cell.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.path}: cell.json cannot be read: {error}") from error
        return content

    def images(self) -> Any:
        """Clean and poisoned samples for the report; None where none were kept."""
        return self._kept("images.safetensors")

    def scores(self) -> Any:
        """What each score said of each sample, by score and phase; None where there were none."""
        return self._kept("scores.safetensors")

    def steps_text(self) -> str:
        """The content of steps.jsonl."""
        try:
            return (self.path / "steps.jsonl").read_text(encoding="utf-8")
        except OSError as error:
            raise RunDirectoryError(f"{self.path}: steps.jsonl cannot be read: {error}") from error

    def _kept(self, name: str) -> Any:
        path = self.path / name
        return load_state(path) if path.is_file() else None


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", label)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
