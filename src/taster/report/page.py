"""The page of a run: one HTML file that asks for nothing from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from matplotlib.figure import Figure

from taster.errors import RunDirectoryError
from taster.report.attack_defence_table import LEGEND as GRID_LEGEND
from taster.report.attack_defence_table import attack_defence_table
from taster.report.counts import derivatives_by_method, detection_bounds, refusals
from taster.report.crafting_curves import HEADINGS as FORMING_HEADINGS
from taster.report.crafting_curves import LEGEND as FORMING_LEGEND
from taster.report.crafting_curves import crafting_figure, crafting_table
from taster.report.defence_ranking import HEADINGS as STANDING_HEADINGS
from taster.report.defence_ranking import LEGEND as STANDING_LEGEND
from taster.report.defence_ranking import rank_defences
from taster.report.figures import (
    Theme,
    accuracy_change_bars,
    accuracy_curves,
    as_png,
    as_svg,
    attack_color,
    without_mathtext,
)
from taster.report.pictures import image_strip, magnified_difference
from taster.report.score_figures import (
    epsilon_plot,
    score_histogram,
    series_by_epsilon,
    series_by_snapshot,
    snapshot_plot,
)
from taster.report.scores import HEADINGS as SCORE_HEADINGS
from taster.report.scores import LEGEND as SCORE_LEGEND
from taster.report.scores import ScoreRow, score_table
from taster.report.summary import legend, result_table, summarize
from taster.report.summary_text import sentences

if TYPE_CHECKING:
    from taster.experiments.recipes.schema import Recipe
    from taster.experiments.run_directory import RunDirectory

_THEMES: tuple[Theme, Theme] = ("light", "dark")


def write_report(run: RunDirectory) -> Path:
    """Writes figures/ and report.html from what the run directory holds; a run that is not over yet is reported as far
    as it has come.

    Raises:
        RunDirectoryError: when no cell is finished, or the directory cannot be written.
    """
    recipe = run.recipe()
    cells = list(run.finished(recipe))
    if not cells:
        raise RunDirectoryError(f"{run.path}: no cell is finished yet, so there is nothing to report")
    published = recipe.published
    lines = summarize([cell["row"] for cell in cells], published)
    attacks = [entry.label for entry in recipe.attack]
    defences = [entry.label for entry in recipe.defence]
    bars, panels = [], []
    for i, defence in enumerate(defences, 1):
        bars.append((defence, _draw(run, f"drops-{i}", partial(accuracy_change_bars, lines, attacks, [defence]))))
        panels.append((defence, _draw(run, f"curves-{i}", partial(accuracy_curves, cells, attacks, defence))))
    with without_mathtext():
        overview = as_png(accuracy_change_bars(lines, attacks, defences, "light"))
    run.write_bytes("figures/overview.png", overview)
    heads, texts = result_table(lines, published=bool(published))
    grid_headings, grid_lines = attack_defence_table([cell["row"] for cell in cells])
    found = score_table([cell["row"] for cell in cells], published)
    formed = [
        (defence, _draw(run, f"forming-{i}", partial(crafting_figure, cells, attacks, defence)))
        for i, defence in enumerate(defences, 1)
    ]
    alone = [entry for entry in recipe.defence if not entry.plus]
    plain = _named(alone, "none") or _named(alone, "mean")  # federations have a rule of aggregation at least
    standing = rank_defences(lines, _named(recipe.attack, "none"), plain)
    wanted = len(attacks) * len(defences) * len(recipe.seeds)
    page = _template().render(
        recipe=recipe,
        toml=recipe.to_toml(),
        environment=run.environment(),
        sentences=sentences(recipe, lines, standing, plain),
        unfinished=wanted - len(cells),
        wanted=wanted,
        headings=heads,
        rows=list(zip(lines, texts, strict=True)),
        legend=legend(published=bool(published)),
        lines=lines,
        grid_headings=grid_headings,
        grid_lines=grid_lines,
        grid_legend=GRID_LEGEND,
        bars=bars,
        panels=panels,
        attacks=[(label, attack_color(i)) for i, label in enumerate(attacks)],
        forming=crafting_table([cell["row"] for cell in cells], published),
        forming_headings=[*FORMING_HEADINGS, *(["published"] if published else [])],
        forming_legend=FORMING_LEGEND,
        forming_figures=[(defence, figure) for defence, figure in formed if figure],
        forming_strips=forming_strips(cells, attacks),
        pictures=pictures(cells, attacks),
        refusals=refusals(cells),
        derivatives=derivatives_by_method(cells),
        bounds=detection_bounds(cells),
        standings=standing,
        standing_headings=STANDING_HEADINGS,
        standing_legend=STANDING_LEGEND,
        scores=found,
        score_headings=[*SCORE_HEADINGS, *(["published"] if any(line.published for line in found) else [])],
        score_legend=SCORE_LEGEND,
        score_defence=recipe.defence[0].label if len(recipe.defence) > 1 else "",
        score_figures=_score_figures(run, recipe, cells, found),
    )
    run.write_text("report.html", page)
    return run.path / "report.html"


def _score_figures(
    run: RunDirectory, recipe: Recipe, cells: list[dict[str, Any]], lines: list[ScoreRow]
) -> list[tuple[str, dict[str, str], bool]]:
    """Titles and pictures of what the scores say, and whether a picture is a wide one."""
    attacks, pasts = [entry.label for entry in recipe.attack], recipe.burn_in.labels
    first = recipe.defence[0].label  # pictures are of one defence, the table is of all
    cells = [cell for cell in cells if cell["row"]["defence"] == first]
    lines = [line for line in lines if line.defence == first]
    shown: list[tuple[str, str, Callable[[Theme], Figure | None]]] = []
    radius, past = series_by_epsilon(recipe.attack), series_by_snapshot(recipe.score, pasts)
    if past:
        shown.append(("score-pasts", "over the model compared to", partial(snapshot_plot, lines, past, attacks, pasts)))
    if radius:
        for i, entry in enumerate(recipe.score, 1):
            draw = partial(epsilon_plot, lines, entry.label, radius)
            shown.append((f"score-{i}-radius", f"{entry.label}, over ε", draw))
    wide = len(shown)
    for i, entry in enumerate(recipe.score, 1):
        shown.append((f"score-{i}", entry.label, partial(score_histogram, cells, entry.label, attacks)))
    found = [(title, _draw(run, name, draw), i < wide) for i, (name, title, draw) in enumerate(shown)]
    return [entry for entry in found if entry[1]]


def _draw(run: RunDirectory, name: str, draw: Callable[[Theme], Figure | None]) -> dict[str, str]:
    """Writes a figure in both themes; returns them as data URIs, nothing where there is none to draw."""
    found: dict[str, str] = {}
    for theme in _THEMES:
        with without_mathtext():
            figure = draw(theme)
            svg = None if figure is None else as_svg(figure)
        if svg is None:
            return {}
        run.write_bytes(f"figures/{name}-{theme}.svg", svg)
        found[theme] = _data_uri(svg, "image/svg+xml")
    return found


def _named(entries: Sequence[Any], name: str) -> str | None:
    """The label of the first entry of that name."""
    return next((entry.label for entry in entries if entry.name == name), None)


def pictures(cells: list[dict[str, Any]], attacks: list[str]) -> list[dict[str, Any]]:
    """For each attack that changes samples: strips of clean, poisoned and difference, of stream and trigger."""
    shown: list[dict[str, Any]] = []
    for attack in attacks:
        cell = next((c for c in cells if c["row"]["attack"] == attack), None)
        images = None if cell is None else cell["cell"].images()
        rows = []
        for phase, pair in (images or {}).items():
            if phase == "forming":
                continue
            clean, poisoned = pair[0], pair[1]
            if bool((clean == poisoned).all()):
                continue
            difference, factor = magnified_difference(clean, poisoned)
            rows.append(
                {
                    "phase": "a stream batch" if phase == "accumulate" else "the trigger batch",
                    "strips": [
                        (name, _data_uri(image_strip(strip_of), "image/png"))
                        for name, strip_of in (
                            ("clean", clean),
                            ("poisoned", poisoned),
                            (f"difference × {factor:.1f}", difference),
                        )
                    ],
                }
            )
        if rows:
            shown.append({"attack": attack, "rows": rows})
    return shown


def forming_strips(cells: list[dict[str, Any]], attacks: list[str]) -> list[tuple[str, str]]:
    """For each attack whose crafting was noted, a sample from the start to the last iteration, of the first seed."""
    shown = []
    for attack in attacks:
        cell = next((c for c in cells if c["row"]["attack"] == attack and c.get("forming")), None)
        if cell is not None:
            shown.append((attack, _data_uri(image_strip(cell["cell"].images()["forming"]), "image/png")))
    return shown


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("taster.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
