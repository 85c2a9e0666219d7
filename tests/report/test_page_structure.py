"""The page for a keyboard, a screen reader and a printer: what its HTML must have, for a page of each scenario."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from taster.experiments import RunDirectory
from taster.report import write_report
from taster.report.verdict_text import WORDS

RESULTS = Path(__file__).parents[2] / "results"
VOID = {"meta", "img", "source", "br"}


@dataclass
class Element:
    """An element with its text, the text of what is within it included."""

    tag: str
    attributes: dict[str, str | None]
    parents: list[str]
    text: str = ""
    within: Counter[str] = field(default_factory=Counter)


class Outline(HTMLParser):
    """All elements of a page, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(page)
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), [parent.tag for parent in self._open])
        for parent in self._open:
            parent.within[tag] += 1
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


CLASSES = [f"digit <{i}>" for i in range(10)]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a training set with the user's own title, path and class names, of which three cells failed."""
    folder = tmp_path_factory.mktemp("offline") / "run"
    shutil.copytree(RESULTS / "offline-digits", folder, ignore=shutil.ignore_patterns("figures", "report.html"))
    recipe = (folder / "recipe.toml").read_text()
    for old, new in (
        ('source = "digits"', f'source = "/home/me/scans"\nclass_names = {json.dumps(CLASSES)}'),
        ('name = "offline-digits"', 'name = "offline-digits"\ntitle = "Scans & co"'),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new, 1)
    (folder / "recipe.toml").write_text(recipe)
    found = json.loads((folder / "results.json").read_text())
    gone = [row for row in found["rows"] if row["defence"] == "trimmed_loss" and row["attack"] == "backdoor, 5 %"]
    found["rows"] = [row for row in found["rows"] if row not in gone]
    found["failed"] = [{**{k: row[k] for k in ("attack", "defence", "seed")}, "reason": "no <room>"} for row in gone]
    (folder / "results.json").write_text(json.dumps(found))
    return write_report(RunDirectory(folder)).read_text()


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a federation."""
    return write_report(RunDirectory(RESULTS / "pang-table-6-small"), tmp_path_factory.mktemp("federated")).read_text()


@pytest.fixture(params=["stream", "training set", "federation"])
def page(request: pytest.FixtureRequest, run: RunDirectory, offline: str, federated: str) -> str:
    """Of each scenario."""
    stream = (run.path / "report.html").read_text()
    return {"stream": stream, "training set": offline, "federation": federated}[request.param]


def test_the_sentence_comes_first_and_the_table_of_verdicts_before_all_others(page: str) -> None:
    outline = Outline(page)
    main = outline.all("main")[0]
    assert main.attributes["id"] == "content"
    first = next(element for element in outline.all("p") if "main" in element.parents)
    assert first.text.split(":")[0] in WORDS.values()
    assert "seed" in first.text
    assert "next, " in first.text
    assert outline.all("caption")[0].text.startswith("How each defence came out")
    assert outline.all("h2")[0].text == "Held or broken"


def test_headings_go_down_one_by_one(page: str) -> None:
    levels = [int(heading.tag[1]) for heading in Outline(page).all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_every_table_has_a_caption_and_cells_with_a_heading(page: str) -> None:
    outline = Outline(page)
    tables = outline.all("table")
    assert len(tables) >= 2
    assert all(table.within["caption"] == 1 for table in tables)
    assert len({caption.text for caption in outline.all("caption")}) == len(tables)
    assert {cell.attributes.get("scope") for cell in outline.all("th") if "thead" in cell.parents} == {"col"}
    assert {cell.attributes.get("scope") for cell in outline.all("th") if "tbody" in cell.parents} == {"row"}
    assert all(row.within["th"] == 1 for row in outline.all("tr") if "tbody" in row.parents)


def test_every_picture_says_what_it_shows(page: str) -> None:
    pictures = Outline(page).all("img")
    assert pictures
    assert all(len(picture.attributes.get("alt") or "") > 10 for picture in pictures)
    assert len({picture.attributes["alt"] for picture in pictures}) == len(pictures)


def test_the_keyboard_reaches_the_result_and_whatever_scrolls(page: str) -> None:
    outline = Outline(page)
    skip = outline.all("a")[0]
    assert (skip.attributes["class"], skip.attributes["href"]) == ("skip", "#content")
    assert ":focus-visible" in page
    boxes = [element for element in outline.elements if element.attributes.get("class") == "scroll"]
    assert len(boxes) == len(outline.all("table"))
    for box in [*boxes, *outline.all("pre")]:
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["aria-label"]
    assert {box.attributes["role"] for box in boxes} == {"region"}


def test_links_lead_to_places_on_the_page_and_places_are_unique(page: str) -> None:
    outline = Outline(page)
    places = [element.attributes["id"] for element in outline.elements if "id" in element.attributes]
    assert len(set(places)) == len(places)
    links = [element.attributes["href"] or "" for element in outline.all("a")]
    assert len(links) == 1 + len(outline.all("h2"))
    assert {link.removeprefix("#") for link in links} == set(places)


def test_a_reader_is_told_the_language_and_the_title(page: str) -> None:
    outline = Outline(page)
    assert outline.all("html")[0].attributes["lang"] == "en"
    (title,) = outline.all("title")
    assert title.text.split(": ")[1] in {word.lower() for word in WORDS.values()}
    assert len(outline.all("main")) == len(outline.all("nav")) == 1


def test_tables_of_many_columns_say_that_they_scroll(page: str) -> None:
    outline = Outline(page)
    wide = [row.within["th"] > 3 for row in outline.all("tr") if "thead" in row.parents]
    hints = [e for e in outline.all("p") if (e.attributes.get("class") or "").startswith("hint ")]
    assert len(hints) == sum(wide) > 0
    assert {(hint.attributes["class"] or "").split()[1] for hint in hints} <= {"phone", "tablet", "desk"}


def test_dark_colors_are_for_screens_alone_and_print_opens_what_unfolds(page: str) -> None:
    assert page.count("prefers-color-scheme: dark") == page.count("screen and (prefers-color-scheme: dark)") > 1
    printed = page[page.index("@media print") :]
    for rule in ("details::details-content", ".scroll { overflow: visible", "table-header-group"):
        assert rule in printed


def test_title_and_classes_are_the_users_own(offline: str) -> None:
    outline = Outline(offline)
    assert outline.all("h1")[0].text == "Scans & co"
    assert outline.all("title")[0].text == "Scans & co: costly"
    first, done = [e.text for e in outline.all("p") if "main" in e.parents][:2]
    assert "into “digit <0>”" in first
    assert " on scans, " in done
    rows = [e.text for e in outline.all("th") if "tbody" in e.parents]
    assert [text for text in rows if text.startswith("“digit")] == [f"“{name}”" for name in CLASSES]


def test_a_failed_cell_is_warned_of_on_top_and_explained_below(offline: str) -> None:
    outline = Outline(offline)
    (box,) = [e for e in outline.elements if e.attributes.get("role") == "note"]
    assert "3 cells of 60 failed" in box.text
    assert "What failed" in [heading.text for heading in outline.all("h2")]
    assert "no <room>" in [cell.text for cell in outline.all("td")]
