"""The page in a browser: readable on a desk and on a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from taster.experiments import RunDirectory

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def chromium(page: Path, profile: Path, *flags: str) -> str:
    """What a browser without a screen and without a network prints of a page."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
        *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


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
    flags = ("--window-size=1400,900", *flags, "--virtual-time-budget=5000", "--dump-dom")
    out = chromium(probe, profile, *flags)
    found = re.search(r"<title>([^<]*)</title>", out)
    assert found is not None, out[-500:]
    return found.group(1)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1400, 900, 400])
def test_the_page_fits_the_screen_in_chromium(run: RunDirectory, width: int) -> None:
    scroll, broken, images, small, background = browse(run.path / "report.html", width).split(" ", 4)
    assert int(scroll) <= width
    assert int(broken) == 0
    assert int(images) >= 5
    assert int(small) == 0
    assert background == "rgb(255, 255, 255)"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_follows_the_preferred_color_scheme(run: RunDirectory) -> None:
    title = browse(run.path / "report.html", 800, "--blink-settings=preferredColorScheme=0")
    assert title.endswith("rgb(13, 17, 23)")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_what_unfolds_is_open_on_paper(run: RunDirectory, tmp_path: Path) -> None:
    """The recipe at the end takes pages, which a page whose rule for paper is gone has not."""
    page = (run.path / "report.html").read_text()
    rule = "details::details-content"
    assert rule in page

    def sheets(name: str, text: str) -> int:
        (tmp_path / f"{name}.html").write_text(text)
        printed = tmp_path / f"{name}.pdf"
        chromium(tmp_path / f"{name}.html", tmp_path / name, "--no-pdf-header-footer", f"--print-to-pdf={printed}")
        return len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))

    closed = sheets("closed", page.replace(rule, "details::no-such-part"))
    assert 1 < closed < sheets("open", page)
