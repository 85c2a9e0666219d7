"""The square table of attacks and defences."""

from __future__ import annotations

from taster.report.attack_defence_table import attack_defence_table


def row(attack: str, defence: str, worst: float, left: float) -> dict[str, object]:
    return {"attack": attack, "defence": defence, "worst_step": worst, "acc_after": left}


def test_a_cell_holds_the_worst_drop_and_what_is_left_over_seeds() -> None:
    rows = [row("a", "x", -2.0, 90.0), row("a", "x", -4.0, 80.0), row("a", "y", 0.0, 95.0), row("b", "y", -1.0, 50.0)]
    headings, lines = attack_defence_table(rows)
    assert headings == ["attack", "x", "y"]
    assert lines == [["a", "−3.0 ± 1.4 / 85.0 ± 7.1", "0.0 / 95.0"], ["b", "–", "−1.0 / 50.0"]]


def test_online_runs_have_none() -> None:
    assert attack_defence_table([{"attack": "a", "defence": "x", "acc_after": 3.0}]) == ([], [])
