"""Figures of a training on a poisoned set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from taster.report.details import TrainingCurve
from taster.report.figures import Theme, attack_color, bar_rows, style_axes, text_color
from taster.report.offline_summary import OfflineLine


def accuracy_bars(
    lines: Sequence[OfflineLine], attacks: Sequence[str], defences: Sequence[str], theme: Theme
) -> Figure:
    """Test accuracy by attack, a panel for each defence; whiskers are one standard deviation, a ring marks the success
    of a backdoor or of targets."""
    labels, figure = bar_rows(attacks, len(defences))
    panels = figure.subplots(1, len(defences), sharey=True, squeeze=False)[0]
    by_key = {(line.attack, line.defence): line for line in lines}
    for axes, defence in zip(panels, defences, strict=True):
        style_axes(axes, theme)
        for y, attack in enumerate(attacks):
            line = by_key.get((attack, defence))
            if line is None:
                continue
            axes.barh(y, line.accuracy.mean, height=0.7, color=attack_color(y))
            deviation = line.accuracy.std or 0.0
            axes.errorbar(line.accuracy.mean, y, xerr=deviation, color=text_color(theme), linewidth=1, capsize=2)
            success = line.asr or line.target_success
            if success is not None:
                (ring,) = axes.plot(success.mean, y, "o", color=text_color(theme), markersize=7, markeredgewidth=1.6)
                ring.set_markerfacecolor("none")
            axes.annotate(
                line.accuracy.text(),
                (105, y),  # beside a ring at 100
                va="center",
                fontsize=8,
                color=text_color(theme),
                annotation_clip=False,
            )
        axes.set_yticks(range(len(attacks)), labels)
        axes.set_ylim(len(attacks) - 0.4, -0.6)
        axes.set_xlim(0, 132)
        axes.set_xticks([0, 25, 50, 75, 100])
        if len(defences) > 1:
            axes.set_title(f"defence: {defence}", color=text_color(theme), fontsize=10)
    ring_text = "; ring: success rate of the attack" if any(line.asr or line.target_success for line in lines) else ""
    figure.supxlabel(f"test accuracy, %{ring_text}", color=text_color(theme), fontsize=9)
    return figure


def training_curves(
    curves: Sequence[TrainingCurve], attacks: Sequence[str], defence: str, theme: Theme
) -> Figure | None:
    """Test accuracy by epoch behind one defence, a line for each seed; broken lines are the attack's success rate. None
    where nothing was measured."""
    figure, axes = _by_epoch(curves, attacks, defence, theme, lambda curve: (curve.test_accuracy, curve.success))
    if not axes.lines:
        return None
    axes.set_ylim(0, 101)
    axes.set_ylabel("test accuracy, %")
    return figure


def loss_curves(curves: Sequence[TrainingCurve], attacks: Sequence[str], defence: str, theme: Theme) -> Figure | None:
    """The loss of training samples by epoch behind one defence: clean ones full, poisoned ones broken. None where
    nothing was measured."""
    figure, axes = _by_epoch(curves, attacks, defence, theme, lambda curve: (curve.loss_clean, curve.loss_poisoned))
    if not axes.lines:
        return None
    axes.set_yscale("log")
    # The page's figures read no formulas, which the powers of a logarithmic axis are by default.
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.4)))
    axes.set_ylabel("loss of training samples")
    return figure


_Values = list[float | None]


def _by_epoch(
    curves: Sequence[TrainingCurve],
    attacks: Sequence[str],
    defence: str,
    theme: Theme,
    full_and_broken: Callable[[TrainingCurve], tuple[_Values, _Values]],
) -> tuple[Figure, Axes]:
    """Two lines for each cell behind one defence; a single epoch is a dot."""
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    style_axes(axes, theme)
    for index, attack in enumerate(attacks):
        for curve in (c for c in curves if (c.attack, c.defence) == (attack, defence)):
            for values, style in zip(full_and_broken(curve), ("-", "--"), strict=True):
                known = [(epoch, value) for epoch, value in zip(curve.epochs, values, strict=True) if value is not None]
                if known:
                    mark = "o" if len(known) == 1 else ""
                    axes.plot(*zip(*known, strict=True), style + mark, color=attack_color(index), linewidth=1.3)
    last = max((epoch for curve in curves for epoch in curve.epochs), default=1)
    axes.set_xlim(0, last * 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    return figure, axes


def certified_curves(certified: Mapping[tuple[str, str], Mapping[int, float]], theme: Theme) -> Figure:
    """Accuracy that is left at the worst by number of poisoned samples, a line for each defence and attack."""
    figure = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.subplots()
    style_axes(axes, theme)
    for index, ((attack, defence), left) in enumerate(certified.items()):
        axes.plot(list(left), list(left.values()), color=attack_color(index), label=f"{defence}, {attack}")
    axes.set_ylim(0, 101)
    axes.set_xlabel("poisoned samples")
    axes.set_ylabel("certified accuracy, %")
    axes.legend(fontsize=7, frameon=False, labelcolor=text_color(theme))
    return figure
