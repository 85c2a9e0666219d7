"""Pages of the site that are made from the code and from other parts of the repository."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catalogue_pages import catalogue_pages, catalogued_functions  # beside this file

import taster

_DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")

_PACKAGES = {
    "taster": "What a guarded loop needs",
    "taster.attacks": "Attacks",
    "taster.defences": "Defences",
    "taster.scores": "Scores",
    "taster.models": "Models",
    "taster.tasks": "Tasks",
    "taster.data": "Data",
    "taster.probe": "Trusted data",
    "taster.federated": "Federations",
    "taster.offline": "Training sets",
    "taster.integrations": "Integrations",
    "taster.derivatives": "Derivatives",
    "taster.perturbations": "Perturbations",
    "taster.client_gradients": "Gradients of many clients",
    "taster.stats": "Statistics",
    "taster.core": "Core",
}
"""Packages of the reference, by what they hold."""

Navigation = list[dict[str, Any]]


def generated_pages(root: Path) -> Iterator[tuple[str, str]]:
    """Path on the site and content of every page that is made."""
    for name in _DOCUMENTS:
        yield name, (root / name).read_text(encoding="utf-8")
    for page in sorted((root / "results").glob("*.md")):
        yield f"results/{page.name}", page.read_text(encoding="utf-8")
    for script in _scripts(root):
        yield script.with_suffix(".md").as_posix(), _code_page(root, script)
    for package, title in _PACKAGES.items():
        yield f"reference/{package}.md", _reference_page(root, package, title)
    for folder in sorted((root / "results").iterdir()):
        if folder.is_dir() and not (folder / "recipe.toml").exists():
            yield f"results/{folder.name}/README.md", _listing(folder)
    yield from catalogue_pages(root)


def navigation(root: Path) -> Navigation:
    """Sections for what is generated, as in mkdocs.yml."""
    results = sorted((root / "results").glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
    return [
        {"Results": [{_title(page): f"results/{page.name}"} for page in results]},
        {"Reference": [{title: f"reference/{package}.md"} for package, title in _PACKAGES.items()]},
        {"Project": [{_title(root / name): name} for name in _DOCUMENTS]},
    ]


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")


def _scripts(root: Path) -> list[Path]:
    """Source files that pages link to: examples, and the one that is to be read first."""
    found = [*sorted((root / "examples").rglob("*.py")), root / "src/taster/core/step.py"]
    return [path.relative_to(root) for path in found]


def _listing(folder: Path) -> str:
    """The files of a folder of raw figures."""
    files = [f"- [{path.name}]({path.name})" for path in sorted(folder.iterdir()) if path.is_file()]
    return "\n".join([f"# Raw figures: {folder.name}", "", *files]) + "\n"


def _code_page(root: Path, script: Path) -> str:
    code = (root / script).read_text(encoding="utf-8")
    return f"# `{script.as_posix()}`\n\n~~~~python\n{code}~~~~\n"


def _reference_page(root: Path, package: str, title: str) -> str:
    """The public modules of a package, one after the other, less what has a page in the catalogue."""
    if package == "taster":
        return _top_page(title)
    folder = root / "src" / Path(*package.split("."))
    modules = [path for path in sorted(folder.rglob("*.py")) if path.name != "__init__.py"]
    names = [".".join(path.relative_to(root / "src").with_suffix("").parts) for path in modules]
    parts = [part for part in map(_module_part, names) if part]
    return "\n\n".join([f"# {title}", f"Modules of `{package}`.", *parts]) + "\n"


def _module_part(name: str) -> str:
    """The directive that shows a module; empty where all of it is in the catalogue."""
    listed = {function.__name__ for function in catalogued_functions() if function.__module__ == name}
    if not listed:
        return f"::: {name}"
    module = importlib.import_module(name)
    others = [
        member
        for member, value in vars(module).items()
        if not member.startswith("_") and member not in listed and getattr(value, "__module__", None) == name
    ]
    if not others:
        return ""
    return f"::: {name}\n    options:\n      members: [{', '.join(others)}]"


def _top_page(title: str) -> str:
    names = sorted((name for name in taster.__all__ if not name.startswith("_") and name != "probe"), key=str.lower)
    lines = [f"- [`taster.{name}`][{_defined(name)}]" for name in names if hasattr(getattr(taster, name), "__name__")]
    return "\n".join([f"# {title}", "", "What `import taster` gives:", "", *lines]) + "\n"


def _defined(name: str) -> str:
    """The full path of where a name of the package is defined."""
    value = getattr(taster, name)
    return f"{value.__module__}.{value.__name__}"
