"""Refusals in a row, and what ends a row."""

from __future__ import annotations

import pytest

from taster.core.refusal_run import RefusalRun
from taster.errors import CheckpointError


def after(events: list[int | None]) -> list[int]:
    """The length after each event: None for an update that was committed, a number of steps undone for a refusal."""
    run, lengths = RefusalRun(), []
    for event in events:
        run = run.committed() if event is None else run.refused(event)
        lengths.append(run.length)
    return lengths


def test_an_update_that_stays_ends_the_row() -> None:
    assert after([0, 0, None, 0]) == [1, 2, 0, 1]
    assert after([None, None, 0, 1, 0]) == [0, 0, 1, 2, 3]


def test_updates_that_are_undone_do_not() -> None:
    assert after([0, None, None, 2]) == [1, 0, 0, 2]
    assert after([0, None, 1, None, None, None, 5]) == [1, 0, 2, 0, 0, 0, 3]
    assert after([0, None, None, 1]) == [1, 0, 0, 1]
    assert after([None, None, 2]) == [0, 0, 1]


def test_it_is_saved_whole_or_refused() -> None:
    run = RefusalRun().refused(0).committed()
    assert RefusalRun.from_state(run.state()) == run
    for wrong in (3, [1, 2], [1, -1, 0], [1, 0, 0.5], None):
        with pytest.raises(CheckpointError, match="three whole numbers"):
            RefusalRun.from_state(wrong)
