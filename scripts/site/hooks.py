"""What MkDocs calls when the site is built: pages of the repository outside of docs/ join it, links follow them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

from catalogue_pages import linked_catalogue  # beside this file
from generated import generated_pages, navigation
from run_pages import run_pages

ROOT = Path(__file__).resolve().parents[2]

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the sections whose pages are found by looking."""
    # Tutorials call `taster`, each in a folder of its own.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["COLUMNS"] = "100"
    work = ROOT / "build/tutorials"
    shutil.rmtree(work, ignore_errors=True)
    for page in (ROOT / "docs/tutorials").glob("*.md"):
        (work / page.stem).mkdir(parents=True)
    config.nav = [*(config.nav or []), *navigation(ROOT)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made, kept results as they are, and the pages of their runs."""
    for path, content in generated_pages(ROOT):
        files.append(File.generated(config, path, content=content))
    for kept in sorted((ROOT / "results").rglob("*.*")):
        if kept.is_file() and kept.suffix != ".md":
            name = kept.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(kept)))
    for name, made in run_pages(ROOT):
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(made)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links into the repository into links of the site."""
    own = _repository_path(page.file.src_uri)
    if page.file.src_uri == "catalogue.md":
        markdown = linked_catalogue(markdown)

    def moved(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        if re.match(r"[a-z]+:", target):
            return found.group()
        in_repository = normpath(str(PurePosixPath(own).parent / target))
        place = _site_path(in_repository)
        if files.get_file_from_path(place) is None:
            # A folder of results is the page of its run, where this was made.
            place = next(
                filter(
                    files.get_file_from_path,
                    (f"{place}/{name}" for name in ("report.html", "README.md", "results.json")),
                ),
                None,
            )
        if place is None:
            return found.group()  # MkDocs says that it leads nowhere
        return f"{before}{relpath(place, str(PurePosixPath(page.file.src_uri).parent))}{anchor or ''}{after}"

    return _LINK.sub(moved, markdown)


def _repository_path(place: str) -> str:
    """Where a page of the site lies in the repository."""
    return place if (ROOT / place).exists() else f"docs/{place}"


def _site_path(path: str) -> str:
    """Where a file of the repository lies on the site, if it does."""
    found = PurePosixPath(path)
    if found.parts[:1] == ("docs",):
        return str(PurePosixPath(*found.parts[1:]))
    if path == "README.md":
        return "index.md"
    return str(found.with_suffix(".md")) if found.suffix == ".py" else path
