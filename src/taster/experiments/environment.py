"""The device of a run, and a description of what it ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch

import taster
from taster.errors import RecipeError
from taster.experiments.checkout import source_checkout
from taster.experiments.results import Environment

_PACKAGES = ("torch", "numpy", "scikit-learn", "datasets", "safetensors", "pydantic")
_OF_ENGINE: dict[str, tuple[str, ...]] = {"flower": ("flwr", "ray"), "ray": ("ray",)}


def pick_device(wanted: str) -> torch.device:
    """Returns a recipe's device; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises:
        RecipeError: for a device that torch does not know or does not have.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError(f"{device.type} is not one of them")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RecipeError(f"compute.device: got {wanted!r}, wanted 'auto', 'cpu' or 'cuda': {error}") from error
    return device


def available_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_environment(
    device: torch.device, threads: int, jobs: int, engine: Literal["local", "ray", "flower"] = "local"
) -> Environment:
    """Describes versions, device, threads and engine, and the commit of taster's source if that is a checkout."""
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
    """The commit of the checkout that taster runs from, with "+" for uncommitted changes; None if it is installed."""
    checkout = source_checkout()
    return None if checkout is None else checkout.describe()


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return None
    return None
