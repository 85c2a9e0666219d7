"""What a run ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import taster

_PACKAGES = ("torch", "numpy", "scikit-learn", "datasets", "safetensors", "pydantic")
_OF_ENGINE: dict[str, tuple[str, ...]] = {"flower": ("flwr", "ray")}


def pick_device(wanted: str) -> torch.device:
    """The device of a recipe; "auto" takes a CUDA GPU where there is one.

    Raises:
        taster.errors.RecipeError: for a device that torch does not know or have.
    """
    from taster.errors import RecipeError

    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError(f"{device.type} is not one of them")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"compute.device: got {wanted!r}, wanted 'auto', 'cpu' or 'cuda': {error}") from error
    return device


def describe_environment(device: torch.device, threads: int, jobs: int, engine: str = "local") -> dict[str, Any]:
    """Versions, device, threads, engine, and the commit of taster's source where it is a checkout."""
    return {
        "taster": taster.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*_PACKAGES, *_OF_ENGINE.get(engine, ()))},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "jobs": jobs,
        "engine": engine,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that taster is run from; "+" marks uncommitted changes. None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        inside = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if inside.returncode == 0 else None


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return None
    return None
