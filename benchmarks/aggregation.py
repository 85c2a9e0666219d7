"""What aggregation costs, over reading the updates once.

    python benchmarks/aggregation.py [--clients 100] [--size 11173962] [--num-byzantine 20] [--rounds 3] [--out FILE]

Float32 on the CPU. Baseline, in turn with each rule: the sum of all numbers of the matrix, which is one pass
over it and nothing else. Medians of the ratios of a round, and the growth of the process's memory beside the matrix.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from taster.federated import AGGREGATORS
from taster.federated.aggregators.fltrust import TrustWeightedMean


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(clients: int, size: int, num_byzantine: int, rounds: int) -> dict[str, Any]:
    values, weights = torch.empty(clients, size), torch.ones(clients)
    generator = torch.Generator().manual_seed(0)
    for row in values:
        row.normal_(generator=generator)
    with_count = ("trimmed_mean", "krum", "multi_krum", "bulyan", "nearest_neighbor_mixing")
    makers: dict[str, Callable[..., Any]] = {name: make for name, make in AGGREGATORS.items() if name != "fltrust"}
    rules: dict[str, Any] = {
        name: make(num_byzantine=num_byzantine) if name in with_count else make() for name, make in makers.items()
    }
    rules["fltrust"] = TrustWeightedMean(values.mean(0))
    found = {}
    for name, rule in rules.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ratios = []
        for _ in range(rounds):
            once = seconds(values.sum)
            ratios.append(seconds(lambda rule=rule: rule(values, weights)) / once)  # type: ignore[misc]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        found[name] = {"over_one_read": statistics.median(ratios), "memory_grew_MiB": grown / 1024}
        print(name, found[name], flush=True)
    return {"read_s": statistics.median(seconds(values.sum) for _ in range(rounds)), "rules": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--size", type=int, default=11_173_962, help="numbers in an update; a ResNet-18 by default")
    parser.add_argument("--num-byzantine", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.clients, options.size, options.num_byzantine, options.rounds)
    asked = {key: getattr(options, key) for key in ("clients", "size", "num_byzantine", "rounds", "threads")}
    result = {**asked, "torch": torch.__version__, "machine": platform.machine(), **found}
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
