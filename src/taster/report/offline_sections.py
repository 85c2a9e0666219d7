"""The sections of the page of an offline recipe; each returns None where a run has nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from taster.report.blocks import ColorLegend, Panel, Panels, Section, Table, Text
from taster.report.class_recall import recall_by_class
from taster.report.data import ReportData
from taster.report.figure_files import FigureFiles
from taster.report.figures import Theme, attack_color
from taster.report.names import data_name
from taster.report.offline_figures import accuracy_bars, certified_curves, loss_curves, training_curves
from taster.report.offline_summary import offline_legend, offline_table
from taster.report.sections import samples, versions
from taster.report.verdict import MARGIN
from taster.report.verdict_table import verdict_section


def overview(data: ReportData) -> Callable[[], Figure]:
    """The picture that a run is known by."""
    return partial(accuracy_bars, data.offline_lines, data.attacks, data.defences, "light")


def sentences(data: ReportData) -> list[str]:
    """What was run."""
    recipe, lines = data.recipe, data.offline_lines
    assert recipe.offline is not None
    what = {
        "scratch": "was trained from random weights",
        "fine_tune": "was trained on",
        "transfer": "had its last layer trained on trained features",
    }[recipe.offline.mode]
    seeds = max(line.seeds for line in lines)
    done = (
        f"{recipe.model.name} {what} on {data_name(recipe)}, poisoned by each of {len(data.attacks)} attacks "
        f"(controls among them) and behind each of {len(data.defences)} defences, with {seeds} "
        f"seed{'s' if seeds > 1 else ''} each."
    )
    return [done]


def bars(data: ReportData, figures: FigureFiles) -> Section | None:
    """Accuracy and success, as bars."""
    panels = []
    for i, defence in enumerate(data.defences, 1):
        image = figures.write(f"accuracy-{i}", partial(accuracy_bars, data.offline_lines, data.attacks, [defence]))
        if image is not None:
            alt = f"Bars: test accuracy behind {defence}, for each attack; the numbers are in the table below"
            panels.append(Panel(f"defence: {defence}", image, alt))
    return Section("What the poison did", [Panels(panels)])


def results(data: ReportData, figures: FigureFiles) -> Section | None:
    """The table of all attacks and defences."""
    headings, rows = offline_table(data.offline_lines, data.failed)
    bad: frozenset[tuple[int, int]] = frozenset()
    if "change" in headings:
        column = headings.index("change")
        notable = {
            (line.attack, line.defence) for line in data.offline_lines if line.change and line.change.mean <= -MARGIN
        }
        bad = frozenset((i, column) for i, row in enumerate(rows) if (row[0], row[1]) in notable)
    table = Table(
        "Every attack against every defence, over all seeds", headings, rows, left=(0, 1), grouped_by=0, bad=bad
    )
    return Section("Results", [table, Text(offline_legend(headings), "soft")])


def failures(data: ReportData, figures: FigureFiles) -> Section | None:
    """The cells that came to no result, and why."""
    if not data.failed:
        return None
    rows = [[cell["attack"], cell["defence"], str(cell["seed"]), cell["reason"]] for cell in data.failed]
    return Section(
        "What failed",
        [Table("Cells without a result", ["attack", "defence", "seed", "why"], rows, left=(0, 1, 3), wrapped=(3,))],
    )


def accuracy(data: ReportData, figures: FigureFiles) -> Section | None:
    """Accuracy and success by epoch."""
    if not any(len(curve.epochs) > 1 for curve in data.details.trainings):
        return None
    return _curves(
        data,
        figures,
        "Accuracy by epoch",
        "epochs",
        partial(training_curves, data.details.trainings, data.attacks),
        "A line for each seed; broken lines are the success rate of the attack.",
    )


def losses(data: ReportData, figures: FigureFiles) -> Section | None:
    """The loss of clean and of poisoned samples by epoch."""
    poisoned = [c for c in data.details.trainings if len(c.epochs) > 1 and any(v is not None for v in c.loss_poisoned)]
    if not poisoned:
        return None
    return _curves(
        data,
        figures,
        "How fast clean and poisoned samples are learned",
        "losses",
        partial(loss_curves, poisoned, data.attacks),
        "The mean loss of training samples after each epoch: clean ones full, poisoned ones broken.",
    )


def certificates(data: ReportData, figures: FigureFiles) -> Section | None:
    """What is proved."""
    found = {(line.attack, line.defence): line.certified for line in data.offline_lines if line.certified}
    if not found:
        return None
    image = figures.write("certified", partial(certified_curves, found))
    if image is None:
        return None
    alt = "Certified accuracy by the number of poisoned samples, a line for each defence and attack"
    note = (
        "The accuracy that no poison of so many samples can take, whatever it is; of an attacked run the poison that "
        "is there counts as clean data."
    )
    return Section("What is proved", [Panels([Panel("certified accuracy", image, alt, wide=True)]), Text(note, "soft")])


def _curves(
    data: ReportData,
    figures: FigureFiles,
    title: str,
    name: str,
    draw: Callable[[str, Theme], Figure | None],
    note: str,
) -> Section:
    panels = []
    for i, defence in enumerate(data.defences, 1):
        image = figures.write(f"{name}-{i}", partial(draw, defence))
        if image is not None:
            panels.append(
                Panel(f"defence: {defence}", image, f"{title} behind {defence}, a line for each attack and seed")
            )
    legend = ColorLegend([(label, attack_color(i)) for i, label in enumerate(data.attacks)])
    return Section(title, [legend, Panels(panels), Text(note, "soft")])


SECTIONS: tuple[Callable[[ReportData, FigureFiles], Section | None], ...] = (
    verdict_section,
    bars,
    results,
    failures,
    recall_by_class,
    certificates,
    accuracy,
    losses,
    samples,
    versions,
)
"""All of them, in the order of the page."""
