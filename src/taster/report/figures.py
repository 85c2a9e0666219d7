"""Curves and bars, each for a light and a dark page."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from taster.report.details import CellCurves
from taster.report.summary import SummaryRow

Theme = Literal["light", "dark"]

# Okabe and Ito's colors, which the color-blind can tell apart; the first is for the control.
_PALETTE = ("#8a8a8a", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442")
_TONES = (1.0, 0.6, 0.35)
_TEXT_COLORS = {"light": "#1f2328", "dark": "#e6edf3"}
_GRID_COLORS = {"light": "#d8dee4", "dark": "#30363d"}
_LABEL_WIDTH = 30
"""Letters in a line of a row's label."""
_INCHES_A_LETTER, _LEAST_MARGIN = 0.08, 1.4


def attack_color(index: int) -> str:
    """The color of the attack at this place in the recipe; after the last color begin darker ones."""
    tone, full = _TONES[index // len(_PALETTE) % len(_TONES)], _PALETTE[index % len(_PALETTE)]
    return "#" + "".join(f"{round(tone * int(full[i : i + 2], 16)):02x}" for i in (1, 3, 5))


def accuracy_curves(cells: Sequence[CellCurves], attacks: Sequence[str], defence: str, theme: Theme) -> Figure:
    """Test accuracy by step behind one defence: a line for each seed, a ring where the trigger struck.

    Args:
        cells: of all defences: they decide the range of the axis, so that panels can be compared.
        attacks: labels, in the order of their colors.
        defence: whose panel this is.
        theme: of the page.
    """
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    style_axes(axes, theme)
    for index, attack in enumerate(attacks):
        color = attack_color(index)
        for cell in cells:
            if (cell.attack, cell.defence) == (attack, defence):
                known = [(step, value) for step, value in enumerate(cell.test_accuracy) if value is not None]
                xs, ys = zip(*known, strict=True)
                axes.plot(xs, ys, color=color, linewidth=1.3, alpha=0.85)
                (ring,) = axes.plot(xs[-1], ys[-1], "o", color=color, markersize=6, markeredgewidth=1.6)
                ring.set_markerfacecolor("none")
    seen = [value for cell in cells for value in cell.test_accuracy if value is not None]
    if seen:
        axes.set_ylim(max(0.0, min(seen) - 3), min(100.5, max(seen) + 3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("test accuracy, %")
    return figure


def accuracy_change_bars(
    lines: Sequence[SummaryRow], attacks: Sequence[str], defences: Sequence[str], theme: Theme
) -> Figure:
    """Change of accuracy at the trigger step by attack, a panel for each defence; whiskers are one standard deviation.

    Args:
        lines: of all defences: they decide the range of the axis, so that panels in different figures can be compared.
        attacks: labels, in the order of their colors.
        defences: whose panels to draw, side by side; a single one gets no title.
        theme: of the page.
    """
    labels, figure = bar_rows(attacks, len(defences))
    panels = figure.subplots(1, len(defences), sharey=True, squeeze=False)[0]
    low = min(0.0, *(line.accuracy_change.mean - (line.accuracy_change.std or 0.0) for line in lines))
    high = max(0.0, *(line.accuracy_change.mean + (line.accuracy_change.std or 0.0) for line in lines))
    by_key = {(line.attack, line.defence): line for line in lines}
    for axes, defence in zip(panels, defences, strict=True):
        style_axes(axes, theme)
        for y, attack in enumerate(attacks):
            line = by_key.get((attack, defence))
            if line is None:
                continue
            mean, deviation = line.accuracy_change.mean, line.accuracy_change.std or 0.0
            axes.barh(y, mean, height=0.7, color=attack_color(y))
            axes.errorbar(mean, y, xerr=deviation, color=text_color(theme), linewidth=1, capsize=2, zorder=3)
            axes.annotate(
                line.accuracy_change.text(sign=True),
                (min(0.0, mean - deviation), y),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8,
                color=text_color(theme),
            )
        axes.set_yticks(range(len(attacks)), labels)
        axes.set_ylim(len(attacks) - 0.4, -0.6)
        # Room for the numbers on the left.
        axes.set_xlim(low - 0.6 * (high - low + 0.5), high + 0.05 * (high - low + 1))
        axes.axvline(0, color=text_color(theme), linewidth=0.8)
        if len(defences) > 1:
            axes.set_title(f"defence: {defence}", color=text_color(theme), fontsize=10)
    figure.supxlabel("change of test accuracy by the one trigger step, points", color=text_color(theme), fontsize=9)
    return figure


def bar_rows(attacks: Sequence[str], panels: int) -> tuple[list[str], Figure]:
    """The labels of rows of bars, long ones in several lines, and a figure with room for them and for panels beside
    each other."""
    labels = [textwrap.fill(attack, _LABEL_WIDTH) for attack in attacks]
    lines = [label.split("\n") for label in labels]
    longest = max((len(line) for own in lines for line in own), default=0)
    width = max(_LEAST_MARGIN, longest * _INCHES_A_LETTER)
    height = 1.0 + max(0.33, 0.2 * max(map(len, lines), default=1)) * len(attacks)
    return labels, Figure(figsize=(width + 2.8 * panels, height), layout="constrained")


def without_mathtext() -> AbstractContextManager[None]:
    """A context in which a dollar sign in a label begins no formula."""
    return matplotlib.rc_context({"text.parse_math": False})


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same content."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "taster", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


def as_png(figure: Figure, *, background: str = "white", dpi: int = 160) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=background, metadata={"Software": None})
    return buffer.getvalue()


def small_png(draw: Callable[[], Figure], limit: int = 100_000) -> bytes:
    """A figure as PNG of 64 colors, in the first of a few resolutions that has less than `limit` bytes."""
    for dpi in (160, 120, 90, 60, 40):
        buffer = io.BytesIO()
        with without_mathtext():
            picture = Image.open(io.BytesIO(as_png(draw(), dpi=dpi)))
        picture.convert("RGB").quantize(64).save(buffer, format="png", optimize=True)
        if buffer.tell() < limit:
            break
    return buffer.getvalue()


def text_color(theme: Theme) -> str:
    """The color of text."""
    return _TEXT_COLORS[theme]


def style_axes(axes: Axes, theme: Theme) -> None:
    """Sets the colors, grid and spines that all figures of the page have."""
    axes.set_facecolor("none")
    axes.grid(True, color=_GRID_COLORS[theme], linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GRID_COLORS[theme])
    axes.tick_params(colors=text_color(theme), labelsize=9)
    axes.xaxis.label.set_color(text_color(theme))
    axes.yaxis.label.set_color(text_color(theme))
