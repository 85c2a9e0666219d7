"""Time and memory of several ways to do the same, in turn in one process."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

_SLOW = 1.0
"""Seconds from which on a way is run once: its first call counts."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


Way = Callable[[], Callable[[], Any]]
"""One toolkit's way to do something: makes ready, which is not timed (a copy, where the input is written into), and
returns what is."""


def compare(ways: dict[str, Way], rounds: int) -> dict[str, dict[str, Any]]:
    """Runs each way once for its memory and its result, then all in turn.

    Returns:
        for each way `error`, what it raised; or `seconds` (the median), `runs`, `memory_MiB` (the most that a call
        held beyond what was there before, its result included; None where the system does not tell) and `result`.
    """
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for name, way in ways.items():
        work = way()
        before = _begin_memory()
        start = time.process_time()
        try:
            result = work()
        except Exception as error:  # whatever another toolkit does with an input is what is asked
            found[name] = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"}
            continue
        first = time.process_time() - start
        found[name] = {"memory_MiB": _grown(before), "result": result}
        times[name] = [first] if first > _SLOW else []
    quick = [name for name in times if not times[name]]
    for _ in range(rounds):
        for name in quick:
            work = ways[name]()
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    for name, own in times.items():
        found[name] |= {"seconds": statistics.median(own), "runs": len(own)}
    return found


def with_figures(
    found: dict[str, dict[str, Any]], what: dict[str, Callable[[Any], float]]
) -> dict[str, dict[str, Any]]:
    """What `compare` found, with `figures` of the results in their place."""
    return {
        way: one
        if "error" in one
        else {"seconds": one["seconds"], "figures": {name: figure(one["result"]) for name, figure in what.items()}}
        for way, one in found.items()
    }


def as_array(result: Any) -> np.ndarray[Any, Any]:
    """What a way returned, as float64."""
    if isinstance(result, Tensor):
        return result.detach().double().numpy()
    if isinstance(result, list):
        return np.concatenate([as_array(part).ravel() for part in result])
    return np.asarray(result, dtype=np.float64)


def _begin_memory() -> int | None:
    """Hands freed memory back, sets the high-water mark of the process to what it holds, and returns that, in KiB."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):  # no Linux
        return None


def _grown(before: int | None) -> float | None:
    return None if before is None else (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1])
