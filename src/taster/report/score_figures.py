"""Figures of scores: histograms over samples, and means over ε and over the snapshot compared to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from taster.experiments import Recipe
from taster.report.details import ScoreHistogram
from taster.report.figures import Theme, attack_color, style_axes, text_color
from taster.report.scores import SAMPLES, ScoreRow
from taster.report.summary import MeanStd

Series = list[tuple[str, list[tuple[float, str]]]]
"""Lines of a plot: a name, and for each point its place and the label of the attack or score it is taken from."""

_MARKERS = {"accumulate": "o", "trigger": "s"}
_STROKES = {"accumulate": "-", "trigger": ":"}


def series_by_epsilon(attacks: Sequence[Any]) -> Series:
    """Attacks that differ in ε only, as lines over ε; attacks with a single ε are left out."""
    return _series(attacks, "epsilon", float)


def series_by_snapshot(scores: Sequence[Any], labels: Sequence[str]) -> Series:
    """Scores that differ in the snapshot compared to only, as lines over it, in the order of `labels`."""
    kept = [entry for entry in scores if entry.settings.get("reference_model") in labels]
    return _series(kept, "reference_model", lambda value: float(labels.index(value)))


def _series(entries: Sequence[Any], key: str, place: Callable[[Any], float]) -> Series:
    groups: dict[str, list[tuple[float, str]]] = {}
    for entry in entries:
        if key in entry.settings:
            rest = {name: value for name, value in entry.settings.items() if name != key}
            group = groups.setdefault(json.dumps([entry.name, rest], sort_keys=True), [])
            group.append((place(entry.settings[key]), entry.label))
    return [(_common(points), sorted(points)) for points in groups.values() if len({p for p, _ in points}) > 1]


def _common(points: Sequence[tuple[float, str]]) -> str:
    """The words that all labels begin with; the first label if there are none."""
    columns = zip(*(label.split() for _, label in points), strict=False)
    shared = [words[0] for words in takewhile(lambda words: len(set(words)) == 1, columns)]
    return " ".join(shared).rstrip(",") or points[0][1]


def epsilon_plot(lines: Sequence[ScoreRow], score: str, series: Series, theme: Theme) -> Figure:
    """A score over ε: its mean on poisoned samples (broken: on the clean ones), and the area under the ROC curve."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, label in ((left, "mean of the score"), (right, "AUC, %")):
        style_axes(axes, theme)
        axes.set_xlabel("ε")
        axes.set_ylabel(label)
    right.axhline(50, color=text_color(theme), linewidth=0.8, linestyle=":")
    for i, (name, points) in enumerate(series, 1):
        for phase in SAMPLES:
            known = _known(lines, [(x, score, attack) for x, attack in points], phase)
            _line(left, known, "poisoned", phase, attack_color(i), name)
            _line(right, known, "auc", phase, attack_color(i), name)
            _clean(left, known, attack_color(i))
    _legend(right, theme)
    return figure


def snapshot_plot(
    lines: Sequence[ScoreRow], series: Series, attacks: Sequence[str], labels: Sequence[str], theme: Theme
) -> Figure:
    """A score's mean over the model compared to: on poisoned samples, and (broken) on the clean ones."""
    figure = Figure(figsize=(3.8 * len(series), 3.0), layout="constrained")
    panels = figure.subplots(1, len(series), squeeze=False)[0]
    for axes, (name, points) in zip(panels, series, strict=True):
        style_axes(axes, theme)
        axes.set_title(name, color=text_color(theme), fontsize=9)
        axes.set_xlabel("compared to")
        axes.set_ylabel("mean of the score")
        axes.set_xticks([x for x, _ in points], [labels[int(x)] for x, _ in points], rotation=45, ha="right")
        for i, attack in enumerate(attacks):
            for phase in SAMPLES:
                known = _known(lines, [(x, score, attack) for x, score in points], phase)
                _line(axes, known, "poisoned", phase, attack_color(i), attack)
                _clean(axes, known, attack_color(i))
        _legend(axes, theme)
    return figure


def score_histogram(histogram: ScoreHistogram, attacks: Sequence[str], theme: Theme) -> Figure:
    """How a score is distributed over samples: clean (filled) and poisoned (lines).

    Args:
        histogram: of the score.
        attacks: labels, in the order of their colors.
        theme: of the page.
    """
    bins = len(histogram.clean)
    edges = [histogram.low + (histogram.high - histogram.low) * i / bins for i in range(bins + 1)]
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    style_axes(axes, theme)
    axes.stairs(histogram.clean, edges, fill=True, color=attack_color(0), alpha=0.5, label="clean")
    for entry in histogram.poisoned:
        axes.stairs(
            entry.density,
            edges,
            color=attack_color(attacks.index(entry.attack)),
            linestyle=_STROKES[entry.phase],
            linewidth=1.3,
            label=f"{entry.attack}, {SAMPLES[entry.phase]}",
        )
    axes.set_xlabel(histogram.score)
    axes.set_ylabel("density")
    _legend(axes, theme)
    return figure


class ScorePlot(NamedTuple):
    """A figure of the page: the name of its files, its title, and whether it takes the page's width."""

    name: str
    title: str
    draw: Callable[[Theme], Figure]
    wide: bool


def score_panels(recipe: Recipe, lines: Sequence[ScoreRow], histograms: Sequence[ScoreHistogram]) -> list[ScorePlot]:
    """The figures of a run's scores, all behind the recipe's first defence.

    Args:
        recipe: of the run.
        lines: of all defences.
        histograms: of its scores.
    """
    attacks, snapshots = [entry.label for entry in recipe.attack], recipe.burn_in.labels
    lines = [line for line in lines if line.defence == recipe.defence[0].label]
    epsilons, past = series_by_epsilon(recipe.attack), series_by_snapshot(recipe.score, snapshots)
    found = []
    if past:
        draw = partial(snapshot_plot, lines, past, attacks, snapshots)
        found.append(ScorePlot("score-pasts", "over the model compared to", draw, wide=True))
    for i, entry in enumerate(recipe.score if epsilons else (), 1):
        over = partial(epsilon_plot, lines, entry.label, epsilons)
        found.append(ScorePlot(f"score-{i}-radius", f"{entry.label}, over ε", over, wide=True))
    by_label = {histogram.score: histogram for histogram in histograms}
    for i, entry in enumerate(recipe.score, 1):
        if entry.label in by_label:
            bars = partial(score_histogram, by_label[entry.label], attacks)
            found.append(ScorePlot(f"score-{i}", entry.label, bars, wide=False))
    return found


def _known(
    lines: Sequence[ScoreRow], wanted: Sequence[tuple[float, str, str]], phase: str
) -> list[tuple[float, ScoreRow]]:
    """The rows for the wanted scores and attacks, with their places."""
    found = {(line.score, line.attack, line.phase): line for line in lines}
    return [(x, found[score, attack, phase]) for x, score, attack in wanted if (score, attack, phase) in found]


def _line(axes: Axes, known: list[tuple[float, ScoreRow]], what: str, phase: str, tint: str, name: str) -> None:
    points: list[tuple[float, MeanStd]] = [(x, getattr(line, what)) for x, line in known if getattr(line, what)]
    if points:
        axes.errorbar(
            [x for x, _ in points],
            [spread.mean for _, spread in points],
            [spread.std or 0.0 for _, spread in points],
            color=tint,
            marker=_MARKERS[phase],
            linestyle=_STROKES[phase],
            markersize=4,
            linewidth=1.3,
            capsize=2,
            label=f"{name}, {SAMPLES[phase]}",
        )


def _clean(axes: Axes, known: list[tuple[float, ScoreRow]], tint: str) -> None:
    points = [(x, line.clean.mean) for x, line in known if line.clean]
    axes.plot([x for x, _ in points], [y for _, y in points], "--", color=tint, linewidth=0.9)


def _legend(axes: Axes, theme: Theme) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, labelcolor=text_color(theme))
