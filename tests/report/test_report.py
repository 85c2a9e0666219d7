"""The page: whole in one file, true to the run, readable on a desk and on a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch

from taster.errors import RunDirectoryError
from taster.experiments import RunDirectory, read_recipe, run_recipe
from taster.experiments.recipes.schema import Entry, PublishedResult
from taster.experiments.running.progress import NoProgress
from taster.report import MeanStd, result_table, summarize, write_report
from taster.report.compare import compare_runs
from taster.report.figures import attack_color
from taster.report.pictures import image_strip, magnified_difference
from taster.report.score_figures import series_by_epsilon, series_by_snapshot
from taster.report.scores import score_table
from taster.report.summary import headings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    from tests.conftest import TINY_RECIPE

    folder = tmp_path_factory.mktemp("report")
    (folder / "tiny.toml").write_text(TINY_RECIPE.replace('"tiny"', '"<tiny> & co"'))
    run_recipe(read_recipe(str(folder / "tiny.toml")), folder / "run", jobs=1)
    write_report(RunDirectory(folder / "run"))
    return RunDirectory(folder / "run")


def row(drop: float, seed: int = 0, **changes: object) -> dict[str, object]:
    return {
        "attack": "a", "defence": "d", "seed": seed, "acc_start": 90.0, "acc_before": 90.0, "acc_after": 90.0 + drop,
        "drop": drop, "steps": 2, "stopped_by": "steps", "rejected": 0, "seconds": 1.0, "cost": 1.5, **changes,
    }  # fmt: skip


def test_rows_are_brought_together_over_seeds() -> None:
    lines = summarize([row(-1.0), row(-3.0, 1, stopped_by="accuracy_floor", cost=None), row(0.0, attack="b")])
    assert [(line.attack, line.seeds) for line in lines] == [("a", 2), ("b", 1)]
    assert (lines[0].accuracy_change.mean, lines[0].accuracy_change.std) == (-2.0, pytest.approx(2**0.5))
    assert lines[0].accuracy_change.text(sign=True) == "−2.0 ± 1.4"
    assert lines[0].stopped_by == "steps 1, accuracy_floor 1"
    assert lines[0].cost == MeanStd(1.5, None)
    assert lines[1].accuracy_change.text(sign=True) == "0.0"
    assert MeanStd(-0.01, None).text(sign=True) == "0.0"
    assert MeanStd(0.26, 0.0).text(sign=True) == "+0.3 ± 0.0"


def test_what_was_screened_has_a_column_where_something_was() -> None:
    plain = result_table(summarize([row(-1.0, screened=0.0)]))
    some = result_table(summarize([row(-1.0, screened=0.0), row(-1.0, attack="b", screened=12.0)]))
    assert "screened" not in plain[0]
    assert some[0].index("screened") == 7
    assert [cells[7] for cells in some[1]] == ["0", "12"]
    assert [len(cells) for cells in plain[1]] == [len(plain[0])]


def test_a_paper_may_report_other_things_than_drops() -> None:
    def text(**published: Any) -> str:
        (line,) = summarize([row(-1.0)], [PublishedResult(attack="a", defence="d", **published)])
        return line.cells(published=True)[-1]

    assert text(after=84.7, screened=28.0) == "84.7, 28 % screened"
    assert text(before=76.0, after=50.0, drop=-26.0, steps=3, cost=15.73) == "−26.0 (76.0 → 50.0), 3 steps, cost 15.7"
    assert text(before=66.5) == "66.5"
    assert text() == "–"
    (line,) = summarize([row(-1.0)], [PublishedResult(attack="a", score="s", clean=1.0)])
    assert line.published is None


def scored(seed: int, fed: float | None) -> dict[str, object]:
    entry = {"clean": 1.0 + seed} if fed is None else {"clean": 1.0 + seed, "poisoned": fed, "auc": 70.0 + seed}
    return row(-1.0, seed, scores={"s": {"accumulate": entry}})


def test_scores_are_brought_together_over_seeds() -> None:
    published = [PublishedResult(attack="a", score="s", clean=0.4, poisoned=0.7)]
    (line,) = score_table([scored(0, 3.0), scored(1, 5.0)], published)
    assert line.cells(published=True) == [
        "s", "a", "d", "stream", "1.500 ± 0.707", "4.000 ± 1.414", "70.5 ± 0.7", "clean 0.4, poisoned 0.7",
    ]  # fmt: skip
    (line,) = score_table([scored(0, None)])
    assert line.cells() == ["s", "a", "d", "stream", "1.000", "–", "–"]
    assert score_table([row(-1.0)]) == []


def test_attacks_over_the_radius_and_scores_over_the_past_are_lines() -> None:
    def entry(name: str, label: str, **settings: object) -> Entry:
        return Entry(name=name, label=label, **settings)

    attacks = [
        entry("accumulative", "a2", epsilon=0.2, poison_fraction=1.0),
        entry("accumulative", "a1", epsilon=0.1, poison_fraction=1.0),
        entry("accumulative", "half", epsilon=0.1, poison_fraction=0.5),
        entry("none", "none"),
    ]
    assert series_by_epsilon(attacks) == [("a2", [(0.1, "a1"), (0.2, "a2")])]
    worded = [entry("accumulative", f"phase, ε={e}", epsilon=e) for e in (0.1, 0.2)]
    assert series_by_epsilon(worded)[0][0] == "phase"
    scores = [
        entry("md", "far", reference_model="epoch-1"),
        entry("md", "near", reference_model="epoch-2"),
        entry("md", "k", reference_model=3),
    ]
    assert series_by_snapshot(scores, ["epoch-1", "epoch-2"]) == [("far", [(0.0, "far"), (1.0, "near")])]


def test_labels_are_drawn_as_they_are(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with(('name = "accumulative"', 'name = "accumulative"\nlabel = "$x_{$"'))
    run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run", jobs=1)
    assert "$x_{$" in write_report(RunDirectory(tmp_path / "run")).read_text()


def test_a_score_that_is_infinite_everywhere_has_no_picture_and_breaks_no_page(
    recipe_with: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far_scores.py").write_text(
        "import torch\ndef far():\n    return lambda batch, view: torch.full((len(batch),), float('inf'))\n"
    )
    monkeypatch.chdir(tmp_path)
    path = recipe_with()
    path.write_text(path.read_text() + '[[score]]\nname = "far_scores:far"\n')
    run_recipe(read_recipe(str(path), ["seeds=[0]"]), tmp_path / "run", jobs=1)
    assert "far_scores:far" in write_report(RunDirectory(tmp_path / "run")).read_text()


def test_colours_do_not_repeat_where_a_recipe_has_many_attacks() -> None:
    assert len({attack_color(i) for i in range(24)}) == 24


def test_the_page_shows_what_scores_say(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe_with()
    path.write_text(
        path.read_text()
        + '[[attack]]\nname = "accumulative"\nlabel = "small"\nepsilon = 0.1\npgd_steps = 2\nvalidation_size = 40\n'
        + "".join(
            f'[[score]]\nname = "memorization_discrepancy"\nlabel = "s{n}"\nreference_model = "epoch-{n}"\n'
            for n in (1, 2)
        )
        + '[[published]]\nattack = "small"\nscore = "s1"\nclean = 0.25\n'
    )
    run_recipe(read_recipe(str(path), ["burn_in.keep_epochs=[1,2]", "seeds=[0]"]), tmp_path / "run", jobs=1)
    page = write_report(RunDirectory(tmp_path / "run")).read_text()
    for piece in ("What the scores say", "s1, over ε", "over the model compared to", "clean 0.25"):
        assert piece in page
    figures = {file.name for file in (tmp_path / "run" / "figures").iterdir()}
    assert {"score-1-light.svg", "score-2-radius-dark.svg", "score-pasts-light.svg"} <= figures


def test_a_papers_figures_stand_beside_ours() -> None:
    published = [PublishedResult(attack="a", defence="d", before=83.4, after=80.0, drop=-3.4, std=0.5)]
    with_them, without = summarize([row(-1.0), row(-2.0, attack="b")], published)
    assert headings(published=True)[-1] == "published"
    assert len(headings()) == len(with_them.cells()) == len(headings(published=True)) - 1
    assert with_them.cells(published=True)[-1] == "−3.4 ± 0.5 (83.4 → 80.0)"
    assert with_them.cells(published=True, narrow=True)[-1] == "−3.4 ± 0.5"
    assert without.cells(published=True)[-1] == "–"


def test_runs_are_compared_with_the_first() -> None:
    first = {"rows": [row(-1.0), row(-3.0, attack="b")]}
    second = {"rows": [row(-4.0), row(-2.0, attack="c")]}
    lines = compare_runs([("x", first), ("y", second)])
    assert [(line["attack"], [e and e["mean"] for e in line["runs"]]) for line in lines] == [
        ("a", [-1.0, -4.0]), ("b", [-3.0, None]), ("c", [None, -2.0]),
    ]  # fmt: skip
    assert lines[0]["runs"][1]["difference"] == -3.0
    assert lines[2]["runs"][1]["difference"] is None


def test_the_page_asks_for_nothing_from_anywhere(run: RunDirectory) -> None:
    page = (run.path / "report.html").read_text()
    for address in re.findall(r'(?:src|href|srcset)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page):
        assert address.startswith("data:")
    assert "<script" not in page
    assert "@import" not in page


def test_the_page_tells_the_run(run: RunDirectory) -> None:
    page = (run.path / "report.html").read_text()
    assert "&lt;tiny&gt; &amp; co" in page
    for line in summarize(run.results()["rows"]):
        for cell in result_table([line])[1][0]:
            assert f">{cell}</td>" in page
    assert "<dt>derivatives</dt><dd>finite_difference (accumulative)</dd>" in page
    for part in (
        "difference ×",
        "Accuracy by step",
        "prefers-color-scheme: dark",
        "torch",
        "pgd_steps = 2",
        "Fewer than three seeds",
    ):
        assert part in page
    assert len(list((run.path / "figures").glob("*.svg"))) == 2 * 4


def test_the_same_run_gives_the_same_page(run: RunDirectory) -> None:
    before = (run.path / "report.html").read_bytes()
    write_report(run)
    assert (run.path / "report.html").read_bytes() == before


def test_refusals_are_told_with_their_reason(tmp_path: Path, recipe_with) -> None:
    path = recipe_with(
        ('"probe_gate"', '"probe_gate"\ntolerance = 0.0'),
        ("steps = 2", "steps = 6"),
        ("epsilon = 0.2", "epsilon = 0.9"),
    )
    run = RunDirectory(tmp_path / "run")
    run_recipe(read_recipe(str(path), ["seeds=[0]"]), run.path, jobs=1)
    assert sum(r["rejected"] for r in run.results()["rows"]) > 0
    page = write_report(run).read_text()
    assert "would fall by" in page


class StopAfter(NoProgress):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, stage: str, steps: int, title: str) -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


def test_an_unfinished_run_is_reported_as_such_and_an_empty_one_refused(tmp_path: Path, tiny_recipe: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "run", progress=StopAfter(48), jobs=1)
    assert "cells are missing" in write_report(RunDirectory(tmp_path / "run")).read_text()
    with pytest.raises(KeyboardInterrupt):
        run_recipe(read_recipe(str(tiny_recipe)), tmp_path / "early", progress=StopAfter(2), jobs=1)
    with pytest.raises(RunDirectoryError, match="no cell is finished"):
        write_report(RunDirectory(tmp_path / "early"))
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        write_report(RunDirectory(tmp_path))


def test_pictures() -> None:
    from io import BytesIO

    from PIL import Image

    clean = torch.full((3, 1, 8, 8), 0.5)
    poisoned = clean.clone()
    poisoned[0, 0, 0, 0] += 0.25
    difference, factor = magnified_difference(clean, poisoned)
    assert factor == pytest.approx(2.0)
    assert float(difference[0, 0, 0, 0]) == 1.0
    assert float(difference[1].std()) == 0.0
    assert magnified_difference(clean, clean)[1] == 1.0
    for channels, mode in ((1, "L"), (3, "RGB"), (5, "L")):
        picture = Image.open(BytesIO(image_strip(torch.rand(4, channels, 8, 8))))
        assert (picture.mode, picture.size) == (mode, (35 * 7, 8 * 7))


def browse(page: Path, width: int, *flags: str) -> str:
    """The page's own measurements in a frame of this width, taken in a browser without a screen."""
    profile = page.parent / f"profile-{width}-{len(flags)}"
    probe = page.parent / f"probe-{width}-{len(flags)}.html"
    script = (
        "<script>addEventListener('load', () => { const f = document.querySelector('iframe'), d = f.contentDocument;"
        "const pictures = [...d.images], broken = pictures.filter(i => !i.complete || !i.naturalWidth).length;"
        "const small = [...d.querySelectorAll('p, td, th, li')].filter("
        "e => parseFloat(f.contentWindow.getComputedStyle(e).fontSize) < 12).length;"
        "document.title = `${d.documentElement.scrollWidth} ${broken} ${pictures.length} ${small} "
        "${f.contentWindow.getComputedStyle(d.body).backgroundColor}`; })</script>"
    )
    # A frame, as a window without a screen is never narrower than 500 pixels.
    frame = f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{escape(page.read_text())}"></iframe>'
    probe.write_text(f"<!doctype html><meta charset=utf-8>{script}{frame}")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
        "--window-size=1400,900", *flags, "--virtual-time-budget=5000", "--dump-dom", probe.as_uri(),
    ]  # fmt: skip
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>([^<]*)</title>", out)
    assert found is not None, out[-500:]
    return found.group(1)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_screen_in_chromium(run: RunDirectory, width: int) -> None:
    scroll, broken, images, small, background = browse(run.path / "report.html", width).split(" ", 4)
    assert int(scroll) <= width
    assert int(broken) == 0
    assert int(images) >= 5
    assert int(small) == 0
    assert background == "rgb(255, 255, 255)"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_is_dark_where_the_reader_wants_it_dark(run: RunDirectory) -> None:
    title = browse(run.path / "report.html", 800, "--blink-settings=preferredColorScheme=0")
    assert title.endswith("rgb(13, 17, 23)")
