"""How poison was crafted: iterations, time, and the loss and accuracy by iteration."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from taster.experiments import PublishedResult
from taster.report.details import CellCurves
from taster.report.figures import Theme, attack_color, style_axes, text_color
from taster.report.summary import MeanStd, published_text

HEADINGS = ["attack", "defence", "iterations", "seconds", "CPU seconds", "setup", "loss", "accuracy"]
LEGEND = (
    "seconds: wall-clock time to craft the trigger batch; CPU seconds: processor time of the same; setup: seconds of "
    "what is done once for all batches, such as training a generator, not included in the others; medians over seeds; "
    "loss: the largest mean loss of the attacker's normal samples after one update on the poison; accuracy: the lowest "
    "test accuracy after one, in %; both over the iterations, mean ± standard deviation over seeds."
)


def crafting_table(rows: Sequence[Mapping[str, Any]], published: Sequence[PublishedResult] = ()) -> list[list[str]]:
    """A row for each attack and defence whose crafting was recorded, with the columns of `HEADINGS`, and one of the
    paper's figures if there are any.

    Args:
        rows: of results.json.
        published: the recipe's `[[published]]` entries.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("forming"):
            groups.setdefault((row["attack"], row["defence"]), []).append(row["forming"])
    reported = {(p.attack, p.defence): p for p in published if p.defence is not None}
    return [
        [
            *key,
            MeanStd.of([float(entry["iterations"]) for entry in entries]).text(),
            format_seconds(statistics.median(entry["seconds"] for entry in entries)),
            format_seconds(statistics.median(entry.get("processor", 0.0) for entry in entries)),
            format_seconds(statistics.median(entry["prepared"] for entry in entries)),
            _spread([entry["loss"] for entry in entries], 2),
            _spread([entry["accuracy"] for entry in entries], 1),
            *([published_text(reported[key]) if key in reported else "–"] if published else []),
        ]
        for key, entries in groups.items()
    ]


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return MeanStd.of(known).text(digits=digits) if known else "–"


def format_seconds(value: float) -> str:
    """About three digits; a dash for zero."""
    return "–" if value == 0 else f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def crafting_figure(cells: Sequence[CellCurves], attacks: Sequence[str], defence: str, theme: Theme) -> Figure | None:
    """Test accuracy (left) and the attacker's loss (right) by iteration, a line for each seed; None without any.

    Args:
        cells: of all defences.
        attacks: labels, in the order of their colors.
        defence: whose cells to draw.
        theme: of the page.
    """
    own = [(cell.attack, cell.crafting) for cell in cells if cell.defence == defence and cell.crafting is not None]
    if not own:
        return None
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, label in ((left, "test accuracy, %"), (right, "loss of normal samples")):
        style_axes(axes, theme)
        axes.set_xlabel("iteration")
        axes.set_ylabel(label)
    named: set[str] = set()
    for attack, curve in own:
        color, first = attack_color(list(attacks).index(attack)), attack not in named
        named.add(attack)
        # The first point is the model without an update, the second that after one on the initial poison, as in Fig. 4
        # of Yang et al. 2017.
        accuracy = [curve.clean_accuracy, *curve.accuracy]
        left.plot(range(-1, len(accuracy) - 1), accuracy, color=color, linewidth=1.2, alpha=0.8)
        known = [(i, loss) for i, loss in enumerate(curve.loss) if loss is not None]
        xs, ys = zip(*known, strict=True) if known else ((), ())
        right.plot(xs, ys, color=color, linewidth=1.2, alpha=0.8, label=attack if first else None)
    left.set_ylim(0, 101)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False, labelcolor=text_color(theme))
    return figure
