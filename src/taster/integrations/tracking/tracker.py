"""What a library that keeps the course of trainings is asked for."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

from taster.errors import ExtraError


class Tracker(Protocol):
    """One run in a tracking library: settings, and numbers over steps."""

    def log_settings(self, settings: Mapping[str, Any], /) -> None:
        """Keeps settings by name, as text."""

    def log_numbers(self, numbers: Mapping[str, float], step: int, /) -> None:
        """Keeps finite numbers by name, as of a step."""

    def close(self) -> None:
        """Ends the run, complete."""


def require(module: str, package: str) -> None:
    """Checks that a tracking library is installed.

    Args:
        module: its module.
        package: its name for people.

    Raises:
        ExtraError: if it is not.
    """
    if importlib.util.find_spec(module) is None:
        raise ExtraError(f'{package} is not installed; install the extra: pip install "taster[tracking]"')


def finite_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Those of the values that are finite numbers or truth values, as floats, with the prefix before their names."""
    return {
        f"{prefix}{plain_name(name)}": float(value)
        for name, value in values.items()
        if isinstance(value, (bool, int, float)) and math.isfinite(value)
    }


def plain_name(name: str) -> str:
    """A name of letters that every tracking library takes: others become underscores."""
    return re.sub(r"[^A-Za-z0-9_\-./]", "_", name)
