"""Tables of results on a narrow console: every name whole or broken where a reader would break it."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from taster.cli.folding import fold, longest_piece
from taster.cli.tables import print_table
from taster.experiments import RunDirectory

RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize(
    ("name", "width", "folded"),
    [
        ("accumulative", 20, "accumulative"),
        ("nearest_neighbour_sanitation", 18, "nearest_neighbour_\nsanitation"),
        ("targets without an attack", 12, "targets\nwithout an\nattack"),
        ("pang-table-4-small-1", 12, "pang-table-\n4-small-1"),
        ("wrong labels, 40 %", 13, "wrong labels,\n40 %"),
        ("abcdefgh", 3, "abc\ndef\ngh"),
        ("", 3, ""),
    ],
)
def test_names_break_after_spaces_underscores_hyphens_and_commas(name: str, width: int, folded: str) -> None:
    assert fold(name, width) == folded
    assert all(len(line) <= width for line in folded.split("\n"))


@pytest.mark.parametrize("width", range(10, 30))
def test_folding_loses_no_letter_and_cuts_no_piece_that_fits(width: int) -> None:
    name = "partition_aggregation training-x, backdoor"
    lines = fold(name, width).split("\n")
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    if width >= longest_piece(name):
        assert all(re.search(r"[_\-,]$", line) or f"{line} {after}" in name for line, after in pairwise(lines))


@pytest.mark.parametrize("name", ["quickstart", "offline-digits", "pang-table-6-small"])
def test_the_table_of_a_run_fits_80_columns_with_every_word_of_every_name_whole(name: str) -> None:
    run = RunDirectory(RESULTS / name)
    recipe, rows = run.recipe(), run.results()["rows"]
    printed = io.StringIO()
    print_table(recipe, rows, Console(file=printed, width=80))
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for entry in (*recipe.attack, *recipe.defence):
        for piece in re.findall(r"[^ _\-,]+", entry.label):
            assert any(re.search(rf"(?<![^\W_]){re.escape(piece)}(?![^\W_])", line) for line in lines), piece


def test_a_wide_console_has_attack_and_defence_side_by_side() -> None:
    run = RunDirectory(RESULTS / "offline-digits")
    printed = io.StringIO()
    print_table(run.recipe(), run.results()["rows"], Console(file=printed, width=140))
    assert re.search(r"wrong labels, 20 % +none +93\.5 ± 2\.4", printed.getvalue())
