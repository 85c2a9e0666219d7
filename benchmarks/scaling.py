"""Seconds of the accumulative attack against PGD steps, batch size and number of batches, as figures and as a plot.

    python benchmarks/scaling.py --checkpoint FILE --data CIFAR10 [--way WAY] [--out FILE.json] [--plot FILE.svg]

From C = 10, a batch of 100 and one batch, one of the three is halved and doubled at a time; medians over turns.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import setting
import torch
from torch.nn.functional import cross_entropy

from taster import Batch
from taster.attacks import CraftingSettings, accumulative
from taster.core.learner import Learner
from taster.derivatives import Derivatives, DiffMethod

SIZES = {"C": (5, 10, 20), "batch": (50, 100, 200), "batches": (1, 2, 4)}
START = {"C": 10, "batch": 100, "batches": 1}


def seconds_of(options: dict[str, Any], sizes: dict[str, int], batches: list[Batch], derivatives: Derivatives) -> float:
    model = setting.make_model(options, tuple(batches[0].x.shape[1:]), options["classes"])
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.01), cross_entropy)
    clean, validation, trigger = (Batch(b.x[: sizes["batch"]], b.y[: sizes["batch"]]) for b in batches)
    campaign = accumulative(
        trigger,
        lambda _: validation,
        torch.Generator().manual_seed(0),
        derivatives,
        crafting=CraftingSettings(epsilon=0.1, pgd_steps=sizes["C"], normalize_poisoned=True),
        trigger_batch="clean",
    )
    assert campaign.accumulate is not None
    total = 0.0
    for _ in range(sizes["batches"]):
        start = time.perf_counter()
        poisoned = campaign.accumulate(clean, learner.view())
        total += time.perf_counter() - start
        learner.step(poisoned)
    return total


def plot(found: dict[str, dict[int, float]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
    highest = max(max(points.values()) for points in found.values())
    names = {"C": "PGD steps C", "batch": "samples in a batch", "batches": "batches"}
    for axis, (key, points) in zip(axes, found.items(), strict=True):
        axis.plot(list(points), list(points.values()), "o-")
        axis.set(xlabel=names[key], xlim=(0, None), ylim=(0, 1.05 * highest), xticks=list(points))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds")
    figure.savefig(path)


def main() -> None:
    parser = setting.parser(__doc__)
    parser.add_argument("--way", default="finite_difference bfloat16 channels_last")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    options = setting.begin(parser)
    batches, options["classes"] = setting.draw(options, max(SIZES["batch"]), 3)
    derivatives = Derivatives(DiffMethod.parse(options["way"]))
    seconds_of(options, START, batches, derivatives)  # warms up
    times: dict[str, dict[int, list[float]]] = {key: {size: [] for size in sizes} for key, sizes in SIZES.items()}
    for _ in range(options["turns"]):
        for key, sizes in SIZES.items():
            for size in sizes:
                times[key][size].append(seconds_of(options, {**START, key: size}, batches, derivatives))
    found = {key: {size: statistics.median(t) for size, t in sizes.items()} for key, sizes in times.items()}
    print(json.dumps(found, indent=1))
    setting.write(options, way=options["way"], turns=options["turns"], seconds=found)
    if options["plot"]:
        plot(found, options["plot"])


if __name__ == "__main__":
    main()
