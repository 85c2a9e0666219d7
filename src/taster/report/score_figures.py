"""Pictures of scores: how they spread over samples, and how they go with the radius and with the model compared to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from taster.report.figures import Theme, attack_color, style_axes, text_color
from taster.report.scores import SAMPLES, ScoreRow
from taster.report.summary import MeanStd

Series = list[tuple[str, list[tuple[float, str]]]]
"""Lines of a plot: a name, and for each point its place and the label of the attack or score it is taken from."""

_MARKERS = {"accumulate": "o", "trigger": "s"}
_STROKES = {"accumulate": "-", "trigger": ":"}


def series_by_epsilon(attacks: Sequence[Any]) -> Series:
    """The attacks that differ in nothing but ε, as lines over it; those with a single ε are none."""
    return _series(attacks, "epsilon", float)


def series_by_snapshot(scores: Sequence[Any], labels: Sequence[str]) -> Series:
    """The scores that differ in nothing but the snapshot compared to, as lines over it, in the order of `labels`."""
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
    """What the labels begin with alike; the first of them where that is nothing."""
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


def score_histogram(cells: Sequence[dict[str, Any]], score: str, attacks: Sequence[str], theme: Theme) -> Figure | None:
    """How a score spreads over samples, clean (filled) and poisoned (lines), of all seeds; None where none changed.

    Args:
        cells: what the finished cells left, of one defence.
        score: its label.
        attacks: labels, in the order of their colours.
        theme: of the page it stands on.
    """
    clean: list[torch.Tensor] = []
    poisoned: dict[tuple[str, str], list[torch.Tensor]] = {}
    for cell in cells:
        for phase, values in ((cell["cell"].scores() or {}).get(score) or {}).items():
            if "poisoned" in values:
                clean.append(values["clean"])
                poisoned.setdefault((cell["row"]["attack"], phase), []).append(values["poisoned"])
    if not poisoned:
        return None
    every = torch.cat([*clean, *(part for parts in poisoned.values() for part in parts)])
    every = every[every.isfinite()]
    if len(every) == 0:
        return None
    low, high = float(every.quantile(0.005)), float(every.quantile(0.99))
    bins = [low + (high - low) * i / 40 for i in range(41)] if high > low else 40
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    style_axes(axes, theme)
    axes.hist(
        torch.cat(clean).clamp(low, high).numpy(), bins, density=True, color=attack_color(0), alpha=0.5, label="clean"
    )
    for (attack, phase), parts in poisoned.items():
        axes.hist(
            torch.cat(parts).clamp(low, high).numpy(),
            bins,
            density=True,
            histtype="step",
            color=attack_color(attacks.index(attack)),
            linestyle=_STROKES[phase],
            linewidth=1.3,
            label=f"{attack}, {SAMPLES[phase]}",
        )
    axes.set_xlabel(score)
    axes.set_ylabel("density")
    _legend(axes, theme)
    return figure


def _known(
    lines: Sequence[ScoreRow], wanted: Sequence[tuple[float, str, str]], phase: str
) -> list[tuple[float, ScoreRow]]:
    """The lines there are for places, scores and attacks."""
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
