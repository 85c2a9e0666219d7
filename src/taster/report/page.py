"""The page of a run: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from pathlib import Path

import jinja2

from taster.experiments import RunDirectory
from taster.report import offline_sections as offline_page
from taster.report import sections as stream_page
from taster.report.cautions import cautions
from taster.report.data import ReportData, collect_report_data
from taster.report.figure_files import FigureFiles
from taster.report.figures import small_png
from taster.report.verdict_text import headline


def write_report(run: RunDirectory, out: Path | None = None) -> Path:
    """Writes report.html, overview.png and figures/.

    Where the run's cells are there, results.json, details.json and pictures.json are brought up to date from them
    first; a run that is not finished is reported as far as it has come. The page is made from these files alone, so it
    can be made wherever they are kept.

    Args:
        run: the run directory, or a folder with recipe.toml, environment.json and those three files.
        out: the folder to write to; None writes into the run directory.

    Returns:
        the path of the page.

    Raises:
        RunDirectoryError: when no cell is finished, a file cannot be read, or a folder cannot be written.
    """
    if run.has_cells():
        collect_report_data(run)
    data = ReportData.read(run)
    folder = run if out is None else RunDirectory(out)
    figures = FigureFiles(folder)
    kind = stream_page if data.recipe.offline is None else offline_page
    folder.write_bytes("overview.png", small_png(kind.overview(data)))
    written = (section(data, figures) for section in kind.SECTIONS)
    page = page_template().render(
        title=data.recipe.title or data.recipe.name,
        recipe=data.recipe,
        headline=headline(data.recipe, data.verdicts, data.undefended),
        cautions=cautions(data),
        sentences=kind.sentences(data),
        missing=data.expected_rows - len(data.rows) - len(data.failed),
        expected=data.expected_rows,
        sections=[section for section in written if section is not None],
    )
    folder.write_text("report.html", page)
    return folder.path / "report.html"


def page_template() -> jinja2.Template:
    """The page that sections are drawn on."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("taster.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
