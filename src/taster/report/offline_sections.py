"""The sections of the page of an offline recipe; each returns None where a run has nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from taster.report.blocks import ColorLegend, Panel, Panels, Section, Table, Text
from taster.report.data import ReportData
from taster.report.figure_files import FigureFiles
from taster.report.figures import Theme, attack_color
from taster.report.offline_figures import accuracy_bars, certified_curves, loss_curves, training_curves
from taster.report.offline_summary import offline_legend, offline_table
from taster.report.sections import few_seeds, samples, versions
from taster.report.summary import MeanStd

_NOTABLE = -2.0  # points: changes of accuracy from here on stand out in the table


def overview(data: ReportData) -> Callable[[], Figure]:
    """The picture that a run is known by."""
    return partial(accuracy_bars, data.offline_lines, data.attacks, data.defences, "light")


def sentences(data: ReportData) -> list[str]:
    """What was run, and with what outcome."""
    recipe, lines = data.recipe, data.offline_lines
    assert recipe.offline is not None
    what = {
        "scratch": "was trained from random weights",
        "fine_tune": "was trained on",
        "transfer": "had its last layer trained on trained features",
    }[recipe.offline.mode]
    seeds = max(line.seeds for line in lines)
    done = (
        f"{recipe.model.name} {what} on {recipe.data.source}, poisoned by each of {len(data.attacks)} attacks "
        f"(controls among them) and behind each of {len(data.defences)} defences, with {seeds} "
        f"seed{'s' if seeds > 1 else ''} each."
    )
    attacked = [line for line in lines if line.change is not None and line.poisoned.mean]
    if not attacked:
        return [done]
    alone = [line for line in attacked if line.defence == data.undefended] or attacked
    worst = min(alone, key=lambda line: line.change.mean if line.change else 0.0)
    behind = "Without a defence" if worst.defence == data.undefended else f"Behind {worst.defence}"
    came = f"{behind} “{worst.attack}” cost most accuracy: {_points(worst.change)} points"
    others = [line for line in attacked if line.attack == worst.attack and line.defence != worst.defence]
    held = "; ".join(f"behind {line.defence} by {_points(line.change)}" for line in others[:4])
    found = [done, f"{came}{'; ' + held if held else ''}."]
    planted = [(line.asr or line.target_success, line) for line in alone if line.asr or line.target_success]
    if planted:
        success, line = max(planted, key=lambda one: one[0].mean if one[0] else 0.0)
        cases = line.hits.text() if line.hits and not line.asr else success.text() if success else "–"
        found.append(f"“{line.attack}” succeeded in {cases} % of cases.")
    return found


def _points(value: MeanStd | None) -> str:
    return "–" if value is None else value.text(sign=True)


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
            (line.attack, line.defence) for line in data.offline_lines if line.change and line.change.mean <= _NOTABLE
        }
        bad = frozenset((i, column) for i, row in enumerate(rows) if (row[0], row[1]) in notable)
    table = Table(headings, rows, left=(0, 1), grouped_by=0, bad=bad)
    return Section("Results", [table, Text(offline_legend(headings), "soft"), *few_seeds(data.offline_lines[0].seeds)])


def failures(data: ReportData, figures: FigureFiles) -> Section | None:
    """The cells that came to no result, and why."""
    if not data.failed:
        return None
    rows = [[cell["attack"], cell["defence"], str(cell["seed"]), cell["reason"]] for cell in data.failed]
    return Section("What failed", [Table(["attack", "defence", "seed", "why"], rows, left=(0, 1, 3), wrapped=(3,))])


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
    draw: Callable[[str, Theme], Figure],
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
    bars,
    results,
    failures,
    certificates,
    accuracy,
    losses,
    samples,
    versions,
)
"""All of them, in the order of the page."""
