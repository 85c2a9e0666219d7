"""The site: its navigation names every page, it builds strictly, and it asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_navigation_names_every_page_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"^ +- .+: ([\w/-]+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(pages)


_RESOURCE = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object|input)\b[^>]*?\s(?:src|data|srcset)=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b(?![^>]*\brel=["']?(?:canonical|alternate))[^>]*?\shref=["']?(?:https?:)?//[^>]*>"""
    r"""|url\(\s*["']?(?:https?:)?//[^)]*\)|@import\s+["'](?:https?:)?//[^"']*""",
    re.IGNORECASE,
)


def foreign_resources(text: str) -> list[str]:
    """What a browser would fetch from another host when it shows the page; links that a reader follows are none."""
    return [found[:120] for found in _RESOURCE.findall(text)]


@pytest.mark.parametrize(
    ("text", "fetched"),
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/css">', True),
        ("<style>@import 'https://a.example/b.css'; a { background: url(http://a.example/i.png) }</style>", True),
        ('<img alt="x" src="https://a.example/i.png">', True),
        ('<a href="https://a.example">there</a> <link rel="canonical" href="https://a.example/">', False),
        ('<img src="pictures/i.png"> <script src="assets/x.js"></script> <link rel="icon" href="i.png">', False),
    ],
)
def test_what_is_fetched_from_elsewhere_is_seen(text: str, fetched: bool) -> None:
    assert bool(foreign_resources(text)) == fetched


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly, with the page of one run and without running the tutorials' code."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip('the site is not built: pip install "taster[docs]"')
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={
            **os.environ,
            "TASTER_SITE_RUNS": "quickstart",
            "TASTER_SITE_TUTORIALS": "false",
            "NO_MKDOCS_2_WARNING": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_the_site_asks_no_other_host_for_anything(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 100
    found = {str(path.relative_to(site)): foreign_resources(path.read_text(encoding="utf-8")) for path in pages}
    assert {name: resources for name, resources in found.items() if resources} == {}
    # For these the theme's script itself would ask another host.
    assert not any('class="mermaid"' in path.read_text(encoding="utf-8") for path in pages)
    assert not re.search(r"^ *(repo_url|repo_name|analytics):", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_the_site_has_the_page_of_a_run_and_of_every_attack(site: Path) -> None:
    assert "<table" in (site / "results/quickstart/report.html").read_text(encoding="utf-8")
    assert (site / "reference/taster.attacks.html").exists()
    assert (site / "versions.html").exists()
