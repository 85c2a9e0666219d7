"""Pages of the runs whose results are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from taster.experiments import RunDirectory
from taster.report import write_report

CHOICE = "TASTER_SITE_RUNS"
"""Environment variable: names of the results whose pages are made, separated by commas; all of them without it."""


def run_pages(root: Path) -> Iterator[tuple[str, Path]]:
    """Path on the site of each file of a run's page, and where it was written.

    Raises:
        SystemExit: for a name in the environment that no result has.
    """
    kept = sorted(path.parent for path in (root / "results").glob("*/recipe.toml"))
    asked = os.environ.get(CHOICE)
    if asked is not None:
        names = {name for name in asked.split(",") if name}
        if unknown := names - {folder.name for folder in kept}:
            raise SystemExit(f"{CHOICE}: got {', '.join(sorted(unknown))}, wanted names of folders in results/")
        kept = [folder for folder in kept if folder.name in names]
    target = root / "build/runs"
    shutil.rmtree(target, ignore_errors=True)
    with ProcessPoolExecutor() as pool:
        for folder, made in zip(kept, pool.map(_write, kept, [target] * len(kept)), strict=True):
            for path in sorted(made.rglob("*")):
                if path.is_file():
                    yield f"results/{folder.name}/{path.relative_to(made).as_posix()}", path


def _write(folder: Path, target: Path) -> Path:
    made = target / folder.name
    write_report(RunDirectory(folder), made)
    return made
