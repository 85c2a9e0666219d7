"""The sections of a page, each a function that returns None where a run has nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from taster.report import attack_defence_table as square
from taster.report import crafting_curves as crafting
from taster.report import defence_ranking, scores, summary, summary_text
from taster.report.blocks import (
    ColorLegend,
    Definitions,
    Panel,
    Panels,
    Section,
    Source,
    Strip,
    Strips,
    Table,
    Text,
)
from taster.report.counts import detection_bounds
from taster.report.data import ReportData
from taster.report.figure_files import FigureFiles, data_uri
from taster.report.figures import accuracy_change_bars, accuracy_curves, attack_color
from taster.report.pictures import image_strip
from taster.report.score_figures import score_panels
from taster.report.verdict import MARGIN
from taster.report.verdict_table import verdict_section

_PHASES = {"accumulate": "a stream batch", "trigger": "the trigger batch", "train": "the training set"}


def ranking(data: ReportData, figures: FigureFiles) -> Section | None:
    """How each defence does over all attacks."""
    if len(data.ranks) < 2:
        return None
    rows = [rank.cells() for rank in data.ranks]
    table = Table("How each defence does over all attacks", defence_ranking.HEADINGS, rows, left=(0, 4, 6))
    return Section("How the defences compare", [table, Text(defence_ranking.LEGEND, "soft")])


def trigger_step(data: ReportData, figures: FigureFiles) -> Section | None:
    """The change of accuracy by the trigger step, as bars."""
    panels = []
    for i, defence in enumerate(data.defences, 1):
        image = figures.write(f"drops-{i}", partial(accuracy_change_bars, data.lines, data.attacks, [defence]))
        if image is not None:
            alt = (
                f"Bars: change of test accuracy by the trigger step behind {defence}, for each attack; the numbers are "
                "in the table below"
            )
            panels.append(Panel(f"defence: {defence}", image, alt))
    return Section("What one trigger step did", [Panels(panels)])


def results(data: ReportData, figures: FigureFiles) -> Section | None:
    """The table of all attacks and defences."""
    published = bool(data.recipe.published)
    headings, rows = summary.result_table(data.lines, published=published, undefended=data.undefended)
    rows = [[*cells, line.stopped_by] for line, cells in zip(data.lines, rows, strict=True)]
    bad = frozenset((i, 2) for i, line in enumerate(data.lines) if line.accuracy_change.mean <= -MARGIN)
    last = len(headings)
    table = Table(
        "Every attack against every defence, over all seeds",
        [*headings, "phase ended by"],
        rows,
        left=(0, 1, last),
        grouped_by=0,
        bad=bad,
    )
    return Section("Results", [table, Text(summary.legend(headings), "soft")])


def bounds(data: ReportData, figures: FigureFiles) -> Section | None:
    """What gates bound the harm to."""
    found = detection_bounds(data.rows)
    if not found:
        return None
    headings = ["defence", "probe", "least bound", "checks, refusals", "greatest bound", "checks, refusals"]
    table = Table(
        "Bounds on the harm that a gate lets pass", headings, [bound.cells() for bound in found], left=(0, 3, 5)
    )
    return Section("What the gates can miss", [table, Text(found[0].legend(), "soft")])


def attacks_against_defences(data: ReportData, figures: FigureFiles) -> Section | None:
    """The square table."""
    headings, rows = square.attack_defence_table(data.rows)
    if not rows:
        return None
    return Section(
        "Every attack against every defence",
        [Table("Worst step and accuracy at the end", headings, rows), Text(square.LEGEND, "soft")],
    )


def accuracy(data: ReportData, figures: FigureFiles) -> Section | None:
    """Test accuracy by step."""
    panels = []
    for i, defence in enumerate(data.defences, 1):
        image = figures.write(f"curves-{i}", partial(accuracy_curves, data.details.cells, data.attacks, defence))
        if image is not None:
            alt = (
                f"Test accuracy by step behind {defence}, a line for each attack and seed, the trigger marked by a ring"
            )
            panels.append(Panel(f"defence: {defence}", image, alt))
    colors = ColorLegend([(label, attack_color(i)) for i, label in enumerate(data.attacks)])
    note = "A line for each seed; the ring marks the accuracy after the trigger step, where the attack ends."
    return Section("Accuracy by step", [colors, Panels(panels), Text(note, "soft")])


def score_values(data: ReportData, figures: FigureFiles) -> Section | None:
    """What scores say of clean and of poisoned samples."""
    lines = scores.score_table(data.rows, data.recipe.published)
    if not lines:
        return None
    published = any(line.published for line in lines)
    headings = [*scores.HEADINGS, *(["published"] if published else [])]
    rows = [line.cells(published=published) for line in lines]
    note = f"{scores.LEGEND} Broken lines in the pictures are the clean samples."
    if len(data.defences) > 1:
        note += f" The pictures are of the defence “{data.defences[0]}”."
    panels = []
    for plot in score_panels(data.recipe, lines, data.details.histograms):
        image = figures.write(plot.name, plot.draw)
        if image is not None:
            panels.append(Panel(plot.title, image, f"{plot.title}: the numbers are in the table below", plot.wide))
    table = Table("Scores of clean and of poisoned samples", headings, rows, left=(0, 1, 2, 3), grouped_by=0)
    return Section("What the scores say", [Panels(panels), table, Text(note, "soft")])


def crafting_course(data: ReportData, figures: FigureFiles) -> Section | None:
    """How poison came about, iteration by iteration."""
    rows = crafting.crafting_table(data.rows, data.recipe.published)
    if not rows:
        return None
    panels = []
    for i, defence in enumerate(data.defences, 1):
        draw = partial(crafting.crafting_figure, data.details.cells, data.attacks, defence)
        image = figures.write(f"crafting-{i}", draw)
        if image is not None:
            alt = "Test accuracy and the attacker's loss by iteration: the best of each are in the table below"
            panels.append(Panel(f"accuracy and loss by iteration, defence: {defence}", image, alt, wide=True))
    strips = [
        Strip(
            entry.attack,
            data_uri(image_strip(data.pictures.frames(entry)), "image/png"),
            f"{entry.attack}: the poisoned sample at iterations from the first to the last",
        )
        for entry in data.pictures.crafting
    ]
    caption = "One sample from the start (left) to the last iteration (right)"
    headings = [*crafting.HEADINGS, *(["published"] if data.recipe.published else [])]
    table = Table("Crafting of each attack", headings, rows, left=(0, 1))
    pictures = [Strips("", [(caption, strips)])] if strips else []
    return Section("How the poison was crafted", [*pictures, Panels(panels), table, Text(crafting.LEGEND, "soft")])


def samples(data: ReportData, figures: FigureFiles) -> Section | None:
    """Clean and poisoned samples side by side."""
    blocks = []
    for attack in data.attacks:
        groups = []
        for entry in (entry for entry in data.pictures.samples if entry.attack == attack):
            caption = _PHASES.get(entry.phase, entry.phase)
            named = zip(
                ("clean", "poisoned", f"difference × {entry.magnification:.1f}"),
                data.pictures.pair(entry),
                strict=True,
            )
            strips = [
                Strip(name, data_uri(image_strip(images), "image/png"), f"{attack}, {caption}: {name}")
                for name, images in named
            ]
            groups.append((caption, strips))
        if groups:
            blocks.append(Strips(attack, groups))
    nothing = Text("No attack of this run changed any sample, or its samples are not images.")
    return Section("What the samples look like", blocks or [nothing])


def refusals(data: ReportData, figures: FigureFiles) -> Section | None:
    """What guards refused of each attack, and the reason of the first refusal."""
    if not data.details.refusals:
        return Section("What the guard refused, and why", [Text("Nothing was refused.")])
    rows = [
        [e.defence, e.attack, e.phase, f"{e.refused} of {e.steps}", e.stage, e.reason] for e in data.details.refusals
    ]
    headings = ["defence", "attack", "phase", "refused", "by", "reason given for the first"]
    note = Text("Refusals of the attack “none” are honest batches that were lost.", "soft")
    table = Table("Refusals by defence, attack and phase", headings, rows, left=(0, 1, 2, 4, 5), wrapped=(5,))
    return Section("What the guard refused, and why", [table, note])


def versions(data: ReportData, figures: FigureFiles) -> Section | None:
    """What the run ran on, and its recipe."""
    entries = [(key, _environment_text(value)) for key, value in data.environment.items()]
    entries += [("derivatives", f"{method} ({'; '.join(who)})") for method, who in data.details.derivatives.items()]
    return Section("Recipe and versions", [Definitions(entries), Source("recipe.toml", data.recipe.to_toml())])


def _environment_text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return "–" if value is None else str(value)


def overview(data: ReportData) -> Callable[[], Figure]:
    """The picture that a run is known by."""
    return partial(accuracy_change_bars, data.lines, data.attacks, data.defences, "light")


def sentences(data: ReportData) -> list[str]:
    """What was run, and with what outcome."""
    return summary_text.sentences(data.recipe, data.lines, data.ranks, data.undefended)


SECTIONS: tuple[Callable[[ReportData, FigureFiles], Section | None], ...] = (
    verdict_section,
    ranking,
    trigger_step,
    results,
    bounds,
    attacks_against_defences,
    accuracy,
    score_values,
    crafting_course,
    samples,
    refusals,
    versions,
)
"""All of them, in the order of the page."""
