"""Prints versions that pyproject.toml names: `torch`, the lowest of PyTorch and the highest that has been tested;
`lowest`, a requirement for the lowest version of every other dependency; `extras`, the names of all extras."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def torch_bounds(project: dict[str, Any]) -> list[str]:
    """Both as "major.minor": the lower bound of the dependency, and `[tool.taster] torch_tested`."""
    (torch,) = [entry for entry in project["project"]["dependencies"] if re.match(r"torch\b", entry)]
    return [_lower_bound(torch)[1], str(project["tool"]["taster"]["torch_tested"])]


def lowest(project: dict[str, Any]) -> list[str]:
    """Requirements "name==lower bound" for the dependencies; torch is left out, which `torch_bounds` has."""
    found = [_lower_bound(entry) for entry in project["project"]["dependencies"]]
    return [f"{name}=={version}" for name, version in found if name != "torch"]


def extras(project: dict[str, Any]) -> list[str]:
    """Names of all extras."""
    return list(project["project"]["optional-dependencies"])


def read_project(root: Path) -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def _lower_bound(entry: str) -> tuple[str, str]:
    found = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*>=\s*([\d.]+)", entry)
    if found is None:
        raise SystemExit(f"got {entry!r} in pyproject.toml, wanted a lower bound, name>=1.2")
    return found.group(1), found.group(2)


if __name__ == "__main__":
    asked = {"torch": torch_bounds, "lowest": lowest, "extras": extras}
    if len(sys.argv) != 2 or sys.argv[1] not in asked:
        raise SystemExit(f"got {sys.argv[1:]}, wanted one of {', '.join(asked)}")
    print(*asked[sys.argv[1]](read_project(Path(__file__).resolve().parent.parent)), sep="\n")
