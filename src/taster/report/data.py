"""What a page is made from: the small files of a run directory, or of a result that is kept without its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from taster.errors import RunDirectoryError
from taster.experiments import Recipe, RunDirectory
from taster.experiments.files import read_json
from taster.experiments.results import FailedCell
from taster.report.controls import honest_label, undefended_label
from taster.report.defence_ranking import DefenceRank, rank_defences
from taster.report.details import Details, collect_details, collect_offline_details
from taster.report.offline_summary import OfflineLine, summarize_offline
from taster.report.sample_pictures import Pictures, collect_pictures
from taster.report.summary import SummaryRow, summarize
from taster.report.verdict import DefenceVerdict, judge

_DETAILS, _PICTURES = TypeAdapter(Details), TypeAdapter(Pictures)


@dataclass(frozen=True)
class ReportData:
    """Recipe, environment, rows, details and pictures of a run."""

    recipe: Recipe
    environment: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    details: Details
    pictures: Pictures
    failed: Sequence[FailedCell] = ()

    @classmethod
    def read(cls, run: RunDirectory) -> ReportData:
        """Reads recipe.toml, environment.json, results.json, details.json and pictures.json.

        Raises:
            RunDirectoryError: when a file is missing or is not what taster writes, or no cell is finished.
        """
        recipe = run.recipe()
        found = run.results() if (run.path / "results.json").exists() else None
        rows, failed = (found["rows"], found.get("failed", [])) if found is not None else ([], [])
        if not rows:
            raise RunDirectoryError(f"{run.path}: no cell is finished yet, so there is nothing to report")
        details, pictures = (
            read_json(run.path / "details.json", _DETAILS),
            read_json(run.path / "pictures.json", _PICTURES),
        )
        return cls(recipe, run.environment(), rows, details, pictures, failed)

    @cached_property
    def lines(self) -> list[SummaryRow]:
        """The rows, summarized over seeds."""
        return summarize(self.rows, self.recipe.published)

    @cached_property
    def offline_lines(self) -> list[OfflineLine]:
        """The rows of an offline recipe, summarized over seeds."""
        return summarize_offline(self.rows, self.recipe.published, self.honest, self.undefended)

    @property
    def attacks(self) -> list[str]:
        """Labels, in the recipe's order."""
        return [entry.label for entry in self.recipe.attack]

    @property
    def defences(self) -> list[str]:
        """Labels, in the recipe's order."""
        return [entry.label for entry in self.recipe.defence]

    @property
    def expected_rows(self) -> int:
        """Of a run that is finished."""
        return len(self.attacks) * len(self.defences) * len(self.recipe.seeds)

    @property
    def honest(self) -> str | None:
        """The label of the attack that attacks nothing."""
        return honest_label(self.recipe)

    @cached_property
    def undefended(self) -> str | None:
        """The label of the defence that defends nothing; in a federation the mean counts as such."""
        return undefended_label(self.recipe)

    @cached_property
    def verdicts(self) -> list[DefenceVerdict]:
        """Of each defence that was attacked."""
        return judge(self.rows, self.defences, len(self.recipe.seeds), self.honest, self.undefended, self.attacks)

    @cached_property
    def ranks(self) -> list[DefenceRank]:
        """How each defence does over all attacks; empty without controls."""
        return rank_defences(self.lines, self.honest, self.undefended)


def collect_report_data(run: RunDirectory) -> None:
    """Writes results.json, details.json and pictures.json from the cells that are finished.

    Raises:
        RunDirectoryError: when no cell is finished, or a file cannot be read or written.
    """
    recipe = run.recipe()
    cells = list(run.finished(recipe))
    if not cells:
        raise RunDirectoryError(f"{run.path}: no cell is finished yet, so there is nothing to report")
    if recipe.offline is None:
        details = collect_details(cells, recipe.defence[0].label, [entry.label for entry in recipe.score])
    else:
        details = collect_offline_details(cells)
    pictures = collect_pictures(cells, [entry.label for entry in recipe.attack])
    run.write_text("details.json", details.to_json())
    run.write_text("pictures.json", pictures.to_json())
    run.write_results(recipe, [cell["row"] for cell in cells])
