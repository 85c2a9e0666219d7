"""How poison formed: what it took, the loss and the accuracy by iteration, and pictures on the way."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from taster.experiments.recipes.schema import PublishedResult
from taster.report.figures import Theme, attack_color, style_axes, text_color
from taster.report.summary import MeanStd, published_text

HEADINGS = ["attack", "defence", "iterations", "seconds", "processor", "before", "loss", "accuracy"]
LEGEND = (
    "seconds: to craft the trigger batch, on the clock; processor: those that this took of the processor; medians over "
    "seeds, without what is prepared once for all batches (before: training a generator); loss: the greatest mean loss "
    "of the attacker's normal samples after one update on the poison; accuracy: the least test accuracy after one, in "
    "%; both over the iterations, mean ± standard deviation over seeds."
)


def crafting_table(rows: Sequence[dict[str, Any]], published: Sequence[PublishedResult] = ()) -> list[list[str]]:
    """The texts of a line for each attack and defence whose crafting was noted, in the order of `HEADINGS`; with the
    paper's figures at the end, where there are any.

    Args:
        rows: of results.json.
        published: the recipe's `[[published]]` entries.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
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
    """To three digits or so; nothing at all for none."""
    return "–" if value == 0 else f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def crafting_figure(
    cells: Sequence[dict[str, Any]], attacks: Sequence[str], defence: str, theme: Theme
) -> Figure | None:
    """Test accuracy (left) and the attacker's loss (right) by iteration, a line for each seed; None without any.

    Args:
        cells: what the finished cells left, of all defences.
        attacks: labels, in the order of their colours.
        defence: whose cells.
        theme: of the page it stands on.
    """
    own = [cell for cell in cells if cell["row"]["defence"] == defence and cell.get("forming")]
    if not own:
        return None
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, label in ((left, "test accuracy, %"), (right, "loss of normal samples")):
        style_axes(axes, theme)
        axes.set_xlabel("iteration")
        axes.set_ylabel(label)
    named: set[str] = set()
    for cell in own:
        attack, course = cell["row"]["attack"], cell["forming"]
        tint, fresh = attack_color(list(attacks).index(attack)), attack not in named
        named.add(attack)
        # The first point is the model untouched, the second the one poisoned by the start, as in the paper's Fig. 4.
        accuracy = [course["untouched"], *course["accuracy"]]
        left.plot(range(-1, len(accuracy) - 1), accuracy, color=tint, linewidth=1.2, alpha=0.8)
        known = [(i, loss) for i, loss in enumerate(course["loss"]) if loss is not None]
        xs, ys = zip(*known, strict=True) if known else ((), ())
        right.plot(xs, ys, color=tint, linewidth=1.2, alpha=0.8, label=attack if fresh else None)
    left.set_ylim(0, 101)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False, labelcolor=text_color(theme))
    return figure
