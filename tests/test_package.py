"""What is installed: dependencies are all named, and the wheel works without the repository."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
_IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "mlflow-skinny": "mlflow"}


def bounds() -> ModuleType:
    """`scripts/dependency_bounds.py`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("dependency_bounds", ROOT / "scripts" / "dependency_bounds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported_packages() -> dict[str, Path]:
    """Top-level packages that the source imports anywhere, each with a file that does."""
    found: dict[str, Path] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            found |= {name.partition(".")[0]: path for name in names}
    return found


def test_every_package_that_is_imported_is_a_dependency() -> None:
    project = bounds().read_project(ROOT)["project"]
    entries = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
    ]
    names = [re.split(r"[\[<>=!~ ]", entry)[0].lower() for entry in entries]
    known = {_IMPORTED_AS.get(name, name.replace("-", "_")) for name in names} | {"taster"} | sys.stdlib_module_names
    missing = {name: path for name, path in imported_packages().items() if name not in known}
    assert missing == {}
    assert {"sklearn", "torch", "typing_extensions"} <= set(imported_packages())


def test_bounds_are_read_from_the_project_and_one_without_a_lower_bound_is_told() -> None:
    read = bounds()
    project = {
        "project": {"dependencies": ["torch>=2.1,<3", "flwr[simulation]>=1.41"], "optional-dependencies": {"a": []}},
        "tool": {"taster": {"torch_tested": "2.9"}},
    }
    assert read.torch_bounds(project) == ["2.1", "2.9"]
    assert read.lowest(project) == ["flwr==1.41"]
    assert read.extras(project) == ["a"]
    project["project"]["dependencies"].append("rich")
    with pytest.raises(SystemExit, match=r"got 'rich' in pyproject\.toml, wanted a lower bound"):
        read.lowest(project)


def test_the_scripts_run_from_a_shell() -> None:
    for script in (ROOT / "scripts").glob("*.sh"):
        assert script.stat().st_mode & 0o111, script
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.thorough
def test_the_package_builds_and_works_without_the_repository(tmp_path: Path) -> None:
    run = subprocess.run([ROOT / "scripts" / "package.sh", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    (wheel,), (sdist,), (bill,) = (sorted(tmp_path.glob(end)) for end in ("*.whl", "*.tar.gz", "*.cdx.json"))
    with zipfile.ZipFile(wheel) as content:
        packed = set(content.namelist())
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/taster").rglob("*") if path.is_file()}
    assert {name for name in source if "__pycache__" not in name} <= packed
    with tarfile.open(sdist) as content:
        assert any(name.endswith("/LICENSE") for name in content.getnames())
    components = {part["name"].lower(): part for part in json.loads(bill.read_text())["components"]}
    assert {"taster", "torch", "scikit-learn"} <= set(components)
    assert components["taster"]["licenses"]
