"""Rows of results, summarized over seeds and compared between runs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.report.conftest import row

from taster.experiments import PublishedResult
from taster.report import MeanStd, result_table, summarize
from taster.report.compare import compare_runs
from taster.report.summary import headings, legend


def test_rows_are_summarized_over_seeds() -> None:
    lines = summarize([row(-1.0), row(-3.0, 1, stopped_by="accuracy_floor", cost=None), row(0.0, attack="b")])
    assert [(line.attack, line.seeds) for line in lines] == [("a", 2), ("b", 1)]
    assert (lines[0].accuracy_change.mean, lines[0].accuracy_change.std) == (-2.0, pytest.approx(2**0.5))
    assert lines[0].accuracy_change.text(sign=True) == "−2.0 ± 1.4"
    assert lines[0].stopped_by == "steps 1, accuracy_floor 1"
    assert lines[0].cost == MeanStd(1.5, None)
    assert lines[1].accuracy_change.text(sign=True) == "0.0"
    assert MeanStd(-0.01, None).text(sign=True) == "0.0"
    assert MeanStd(0.26, 0.0).text(sign=True) == "+0.3 ± 0.0"


def test_screened_samples_get_a_column_only_if_there_are_any() -> None:
    plain = result_table(summarize([row(-1.0, screened=0.0)]))
    some = result_table(summarize([row(-1.0, screened=0.0), row(-1.0, attack="b", screened=12.0)]))
    assert "screened" not in plain[0]
    assert some[0].index("screened") == 7
    assert [cells[7] for cells in some[1]] == ["0", "12"]
    assert [len(cells) for cells in plain[1]] == [len(plain[0])]


def test_backdoors_get_a_column_with_a_dash_for_other_attacks() -> None:
    plain = result_table(summarize([row(-1.0)]))
    rows = [row(-1.0), *(row(0.0, seed, attack="b", asr_start=0.5, asr=90.0 + 2 * seed) for seed in (0, 1))]
    heads, cells = result_table(summarize(rows))
    assert "ASR" not in plain[0]
    place = heads.index("ASR")
    assert [line[place] for line in cells] == ["–", "0.5 → 91.0 ± 1.4"]
    narrow_heads, narrow = result_table(summarize(rows), narrow=True)
    assert narrow[1][narrow_heads.index("ASR")] == "0.5 → 91.0"
    assert "target class" in legend(heads)
    assert "target class" not in legend(plain[0])


def test_a_published_result_shows_what_the_paper_reports() -> None:
    def text(**published: Any) -> str:
        (line,) = summarize([row(-1.0)], [PublishedResult(attack="a", defence="d", **published)])
        return line.cells(published=True)[-1]

    assert text(after=84.7, screened=28.0) == "84.7, 28 % screened"
    assert text(before=76.0, after=50.0, drop=-26.0, steps=3, cost=15.73) == "−26.0 (76.0 → 50.0), 3 steps, cost 15.7"
    assert text(before=66.5) == "66.5"
    assert text() == "–"
    (line,) = summarize([row(-1.0)], [PublishedResult(attack="a", score="s", clean=1.0)])
    assert line.published is None


def test_published_results_get_a_column() -> None:
    published = [PublishedResult(attack="a", defence="d", before=83.4, after=80.0, drop=-3.4, std=0.5)]
    with_them, without = summarize([row(-1.0), row(-2.0, attack="b")], published)
    assert headings(published=True)[-1] == "published"
    assert len(headings()) == len(with_them.cells()) == len(headings(published=True)) - 1
    assert with_them.cells(published=True)[-1] == "−3.4 ± 0.5 (83.4 → 80.0)"
    assert with_them.cells(published=True, narrow=True)[-1] == "−3.4 ± 0.5"
    assert without.cells(published=True)[-1] == "–"


def test_runs_are_compared_to_the_first() -> None:
    first = {"rows": [row(-1.0), row(-3.0, attack="b")]}
    second = {"rows": [row(-4.0), row(-2.0, attack="c")]}
    lines = compare_runs([("x", first), ("y", second)])
    assert [(line["attack"], [e and e["mean"] for e in line["runs"]]) for line in lines] == [
        ("a", [-1.0, -4.0]), ("b", [-3.0, None]), ("c", [None, -2.0]),
    ]  # fmt: skip
    assert lines[0]["runs"][1]["difference"] == -3.0
    assert lines[2]["runs"][1]["difference"] is None


def test_a_defence_that_defends_nothing_has_no_price() -> None:
    lines = summarize([row(-1.0, cost=1.1), row(-1.0, defence="gate", cost=2.5)])
    heads, cells = result_table(lines, undefended="d")
    assert [line[heads.index("cost")] for line in cells] == ["–", "2.50"]
    bare, _ = result_table(lines[:1], undefended="d")
    assert "cost" not in bare
    assert "cost" not in legend(bare)
    assert "cost" in legend(heads)
