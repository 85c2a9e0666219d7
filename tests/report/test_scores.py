"""Tables and figures of scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.conftest import row

from taster.experiments import PublishedResult, RunDirectory, read_recipe, run_recipe
from taster.experiments.recipes.schema import Entry
from taster.report import write_report
from taster.report.score_figures import series_by_epsilon, series_by_snapshot
from taster.report.scores import score_table


def scored(seed: int, fed: float | None) -> dict[str, object]:
    entry = {"clean": 1.0 + seed} if fed is None else {"clean": 1.0 + seed, "poisoned": fed, "auc": 70.0 + seed}
    return row(-1.0, seed, scores={"s": {"accumulate": entry}})


def test_scores_are_summarized_over_seeds() -> None:
    published = [PublishedResult(attack="a", score="s", clean=0.4, poisoned=0.7)]
    (line,) = score_table([scored(0, 3.0), scored(1, 5.0)], published)
    assert line.cells(published=True) == [
        "s", "a", "d", "stream", "1.500 ± 0.707", "4.000 ± 1.414", "70.5 ± 0.7", "clean 0.4, poisoned 0.7",
    ]  # fmt: skip
    (line,) = score_table([scored(0, None)])
    assert line.cells() == ["s", "a", "d", "stream", "1.000", "–", "–"]
    assert score_table([row(-1.0)]) == []


def test_entries_that_differ_in_one_setting_are_a_line() -> None:
    def entry(name: str, label: str, **settings: object) -> Entry:
        return Entry(name=name, label=label, **settings)

    attacks = [
        entry("accumulative", "a2", epsilon=0.2, poison_fraction=1.0),
        entry("accumulative", "a1", epsilon=0.1, poison_fraction=1.0),
        entry("accumulative", "half", epsilon=0.1, poison_fraction=0.5),
        entry("none", "none"),
    ]
    assert series_by_epsilon(attacks) == [("a2", [(0.1, "a1"), (0.2, "a2")])]
    worded = [entry("accumulative", f"phase, ε={e}", epsilon=e) for e in (0.1, 0.2)]
    assert series_by_epsilon(worded)[0][0] == "phase"
    scores = [
        entry("md", "far", reference_model="epoch-1"),
        entry("md", "near", reference_model="epoch-2"),
        entry("md", "k", reference_model=3),
    ]
    assert series_by_snapshot(scores, ["epoch-1", "epoch-2"]) == [("far", [(0.0, "far"), (1.0, "near")])]


def test_a_score_without_finite_values_has_no_histogram(
    recipe_with: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far_scores.py").write_text(
        "import torch\ndef far():\n    return lambda batch, view: torch.full((len(batch),), float('inf'))\n"
    )
    monkeypatch.chdir(tmp_path)
    path = recipe_with()
    path.write_text(path.read_text() + '[[score]]\nname = "far_scores:far"\n')
    run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run", jobs=1)
    assert "far_scores:far" in write_report(RunDirectory(tmp_path / "run")).read_text()


def test_the_page_shows_scores(run: RunDirectory) -> None:
    page = (run.path / "report.html").read_text()
    for piece in ("What the scores say", "s1, over ε", "over the model compared to", "clean 0.25"):
        assert piece in page
    figures = {file.name for file in (run.path / "figures").iterdir()}
    assert {"score-1-light.svg", "score-2-radius-dark.svg", "score-pasts-light.svg"} <= figures
