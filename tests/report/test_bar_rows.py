"""Bars keep their room beside long labels, which break into lines."""

from __future__ import annotations

import pytest

from taster.report.figures import bar_rows


@pytest.mark.parametrize("label", ["none", "generated samples, systematic wrong labels, 30 % of the set", "a" * 25])
def test_the_panel_keeps_its_width_beside_labels_of_any_length(label: str) -> None:
    labels, figure = bar_rows([label, "none"], 1)
    axes = figure.subplots(1, 1)
    axes.barh([0, 1], [50, 60])
    axes.set_yticks([0, 1], labels)
    figure.draw_without_rendering()  # a figure without room warns, which the tests take for an error
    assert axes.get_position().width * figure.get_figwidth() > 2.0
    assert labels[0].replace("\n", " ") == label


def test_rows_grow_with_the_lines_of_the_longest_label() -> None:
    low, high = (bar_rows([label] * 3, 2)[1].get_figheight() for label in ("none", "word " * 30))
    assert high > low
