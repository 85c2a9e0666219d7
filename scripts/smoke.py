"""Whether an installed taster works without its repository; run by the interpreter that has it, in an empty folder."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import taster

WANTED = ("taster/py.typed", "taster/report/page.html.j2", "taster/experiments/recipes/library/quickstart.toml")


def check_files() -> None:
    """The distribution has the marker of types, templates, recipes and its licence."""
    assert Path(sys.prefix) in Path(taster.__file__).parents, f"{taster.__file__} is not the installed one"
    files = {str(path) for path in importlib.metadata.files("taster") or []}
    missing = [name for name in WANTED if name not in files]
    assert not missing, f"not in the wheel: {missing}"
    assert any(name.endswith("licenses/LICENSE") for name in files), "no LICENSE in the wheel's metadata"
    assert importlib.metadata.metadata("taster")["License-Expression"] == "Apache-2.0"
    assert importlib.metadata.version("taster") == taster.__version__


def run(*arguments: str) -> str:
    """What a command prints. It has to succeed."""
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Checks files, import, lists, and the smallest recipe from beginning to end."""
    assert not list(Path().iterdir()), "wanted an empty folder to start in"
    check_files()
    run(sys.executable, "-W", "error", "-c", "import taster")
    command = str(Path(sys.executable).with_name("taster"))
    assert "--resume" in run(command, "run", "--help")
    recipes = [entry["name"] for entry in json.loads(run(command, "list", "--json"))["recipes"]]
    assert "quickstart" in recipes, recipes
    small = ("burn_in.epochs=1", "burn_in.keep_epochs=[1]", "schedule.steps=2")
    run(command, "run", "--quiet", "--seeds", "1", "--jobs", "1", "--out", "out", *(f"--set={s}" for s in small))
    rows = json.loads(Path("out/results.json").read_text(encoding="utf-8"))["rows"]
    assert rows, "no cell is finished"
    assert "<html" in Path("out/report.html").read_text(encoding="utf-8")
    print(f"taster {taster.__version__}: {len(recipes)} recipes, {len(rows)} cells of quickstart run")


if __name__ == "__main__":
    main()
