"""Prints the lowest version of PyTorch that pyproject.toml admits, and the highest that has been tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def bounds(root: Path) -> tuple[str, str]:
    """Both as "major.minor": the lower bound of the dependency, and `[tool.taster] torch_tested`."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (torch,) = [entry for entry in project["project"]["dependencies"] if re.match(r"torch\b", entry)]
    found = re.search(r">=\s*(\d+\.\d+)", torch)
    if found is None:
        raise SystemExit(f"got {torch!r} in pyproject.toml, wanted a lower bound, torch>=2.x")
    return found.group(1), str(project["tool"]["taster"]["torch_tested"])


if __name__ == "__main__":
    print(*bounds(Path(__file__).resolve().parent.parent), sep="\n")
