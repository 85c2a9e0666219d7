"""Taster beside the toolkits that install by pip: the same inputs, in one process, in turn.

    pip install byzfl flwr opacus adversarial-robustness-toolbox
    python benchmarks/other_toolkits.py --out results/other-toolkits.json
    python benchmarks/other_toolkits.py --parts exactness --draws 3

One thread; seconds are the process's CPU time, medians of several calls (of one where a call takes longer than a
second). Memory is the most that a call holds beyond what was there before; one that asks for more than --memory GiB
fails and is told as that. A toolkit that is not installed is named and left out. With --parts, what the file of --out
has of other parts, and of other --sizes, stays there.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from toolkits import aggregation, exactness, poisoning, sample_gradients
from toolkits.installed import TOOLKITS, versions


def _size(text: str) -> tuple[int, int]:
    clients, numbers = text.split("x")
    return int(clients), int(numbers)


def _shape(row: dict[str, Any]) -> tuple[int, int]:
    return row["clients"], row["numbers"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["aggregation", "exactness", "gradients", "poisoning"])
    parser.add_argument("--sizes", nargs="+", type=_size, help="of aggregation, clients by numbers: 30x100000")
    parser.add_argument("--rounds", type=int, default=5, help="calls that a median is of")
    parser.add_argument("--draws", type=int, default=10, help="of the inputs of exactness")
    parser.add_argument("--memory", type=float, default=10.0, help="the most that the process may hold, in GiB")
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (int(options.memory * 2**30), resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")  # other toolkits' warnings of overflows, which the tables show
    logging.getLogger("art").setLevel(logging.ERROR)
    sizes = options.sizes or list(aggregation.SIZES)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "aggregation": lambda: aggregation.measure(sizes, options.rounds),
        "exactness": lambda: exactness.measure(options.draws),
        "gradients": lambda: sample_gradients.measure(options.rounds),
        "poisoning": lambda: poisoning.measure(options.rounds),
    }
    there = versions()
    for name, what in TOOLKITS.items():
        print(f"{name} {there[name]}" if there[name] else f"{name} is not installed: {what} is measured without it")
    kept = json.loads(options.out.read_text()) if options.parts and options.out and options.out.exists() else {}
    found: dict[str, Any] = kept | {
        "versions": there,
        "machine": {
            "cpu": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(),
        },
        "threads": 1,
        "memory_limit_GiB": options.memory,
    }
    for name in options.parts or parts:
        print(f"\n{name}", flush=True)
        other = [row for row in found.get(name, []) if name == "aggregation" and _shape(row) not in sizes]
        found[name] = other + parts[name]()
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
