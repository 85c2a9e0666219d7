"""The git checkout that taster's source lies in, if it lies in one."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
"""The folder of taster's source."""

_SECONDS = 30


@dataclass(frozen=True)
class Checkout:
    """A git checkout with taster's source.

    Attributes:
        package: the folder of the source in it.
    """

    package: Path

    def describe(self) -> str | None:
        """The commit, with "+" for uncommitted changes."""
        return _git(self.package, "describe", "--always", "--abbrev=12", "--dirty=+")

    def changed_since(self, commit: str) -> frozenset[str] | None:
        """The files of the source that differ from those at a commit, uncommitted and new ones among them, relative to
        the package; None if the checkout does not have the commit."""
        found = _git(self.package, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
        if found is None:
            return None
        changed = _git(self.package, "diff", "--name-only", "--no-renames", "--relative", "-z", found, "--", ".")
        new = _git(self.package, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
        if changed is None or new is None:
            return None
        return frozenset(name for name in (changed + "\0" + new).split("\0") if name)


@cache
def source_checkout(package: Path = PACKAGE) -> Checkout | None:
    """The checkout of the source that runs; None if that is installed, or git is not.

    Args:
        package: the folder of the source.
    """
    # A package that is installed below some other project's checkout is no part of it.
    tracked = _git(package, "ls-files", "--error-unmatch", "--", "__init__.py")
    return None if tracked is None else Checkout(package)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    try:
        found = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
