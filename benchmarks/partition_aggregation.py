"""Certified aggregation over partitions of MNIST: what is certified, and what training many models at once saves.

    python benchmarks/partition_aggregation.py --data MNIST [--partitions 1200 250] [--seeds 1] [--epochs 15]
        [--test 1000] [--loop 12] [--rounds 3] [--spread 1] [--train 60000] [--out FILE]

Each base model is a small fully connected net on images averaged to 14x14; what it sees is fixed beforehand, nothing is
computed from the training set. Ensembles are trained by one vectorized call, and read with both votes. Baseline of the
times: `torch.optim.SGD` on one model after the other, of the same first `--loop` partitions as a vectorized call beside
it, in turn, `--rounds` times after one to warm up; the ratio is a median of pairs. No setting was
chosen by test images.
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
from torch import Tensor, nn

from taster.data import Images, load_images
from taster.defences.training import (
    CertifiedEnsemble,
    CertifiedPrediction,
    SGDSettings,
    TrainBaseModels,
    finite_aggregation,
    finite_aggregation_certificate,
    looped_training,
    run_off_certificate,
    vectorized_training,
    votes_of,
)

PUBLISHED = {
    1200: {"median": 448, "clean": 95.8, "train_minutes": 240},
    3000: {"median": 509, "clean": 93.4, "train_minutes": 630},
}
"""Levine and Feizi 2021, Table 1, MNIST: a Network-in-Network, all of the test images, minutes on one GPU."""


class Standardise(nn.Module):
    """Fixed numbers, known before the data."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.13) / 0.31


def small_net() -> nn.Module:
    """A hidden layer of 32 units on images averaged to 14x14: 6,634 weights."""
    return nn.Sequential(
        nn.AvgPool2d(2),
        Standardise(),
        nn.Flatten(),
        nn.Linear(196, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


def certified(found: CertifiedPrediction, y: Tensor, budgets: list[int]) -> dict[str, Any]:
    shares = found.certified_accuracy(y, budgets)
    return {
        "clean": round(found.certified_accuracy(y, [0])[0], 2),
        "median": found.median_radius(y),
        "certified": {budget: round(share, 2) for budget, share in zip(budgets, shares, strict=True)},
    }


def predict(ensemble: CertifiedEnsemble, test: Images) -> tuple[float, dict[str, CertifiedPrediction]]:
    """The mean accuracy of a base model, in percent, and both votes, from one pass over the test images."""
    right, found = 0, {"plurality": list[CertifiedPrediction](), "run_off": list[CertifiedPrediction]()}
    for x, y in zip(torch.split(test.x, 100), torch.split(test.y, 100), strict=True):
        scores = ensemble.models.scores(x)
        votes = votes_of(scores)
        right += int((votes == y[:, None]).sum())
        found["plurality"].append(finite_aggregation_certificate(votes, 10, ensemble.bases))
        found["run_off"].append(run_off_certificate(scores, ensemble.bases))
    joined = {
        vote: CertifiedPrediction(torch.cat([p.labels for p in parts]), torch.cat([p.radius for p in parts]))
        for vote, parts in found.items()
    }
    return 100 * right / (len(test) * len(ensemble.models)), joined


def measure(train: Images, test: Images, partitions: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    sgd = SGDSettings(epochs=options.epochs, batch_size=16)
    aggregation = finite_aggregation(partitions=partitions, spread=options.spread, seed=seed)
    together = vectorized_training(small_net, sgd=sgd, models_at_once=options.models_at_once)
    made: list[Any] = []
    wall, busy = seconds(lambda: made.append(aggregation(train.x, train.y, together, classes=10)))
    ensemble = made[0]
    budgets = [round(partitions * share) for share in (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)]
    read: list[Any] = []
    taken, _ = seconds(lambda: read.append(predict(ensemble, test)))
    base, found = read[0]
    return {
        "partitions": partitions,
        "spread": options.spread,
        "seed": seed,
        "base_accuracy": round(base, 2),
        "train_wall_s": round(wall, 1),
        "train_cpu_s": round(busy, 1),
        "peak_memory_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "predict_wall_s": round(taken, 1),
        **{vote: certified(prediction, test.y, budgets) for vote, prediction in found.items()},
    }


def measure_loop(train: Images, partitions: int, options: argparse.Namespace) -> dict[str, Any]:
    """The vectorized call against the loop, on the same partitions, in turn."""
    sgd = SGDSettings(epochs=options.epochs, batch_size=16)
    members = finite_aggregation(partitions=partitions).divide(train.x, train.y).members[: options.loop]
    ways: dict[str, TrainBaseModels] = {
        "loop": looped_training(small_net, sgd=sgd),
        "vectorized": vectorized_training(small_net, sgd=sgd, models_at_once=options.models_at_once),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way(train.x, train.y, members[:2], classes=10, seed=0)
    for _ in range(options.rounds):
        for name, way in ways.items():
            taken[name].append(seconds(lambda way=way: way(train.x, train.y, members, classes=10, seed=0)))  # type: ignore[misc]
    pairs = list(zip(taken["loop"], taken["vectorized"], strict=True))
    return {
        "partitions": partitions,
        "models": len(members),
        "loop_cpu_s": round(statistics.median(busy for _, busy in taken["loop"]), 2),
        "vectorized_cpu_s": round(statistics.median(busy for _, busy in taken["vectorized"]), 2),
        "ratio_wall": round(statistics.median(a[0] / b[0] for a, b in pairs), 2),
        "ratio_cpu": round(statistics.median(a[1] / b[1] for a, b in pairs), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="MNIST, as a folder or a name on the hub")
    parser.add_argument("--partitions", type=int, nargs="+", default=[1200, 250])
    parser.add_argument("--spread", type=int, default=1, help="d of finite aggregation; 1: Deep Partition Aggregation")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--train", type=int, default=60_000, help="training images, the first of them")
    parser.add_argument("--test", type=int, default=1000, help="test images, the first of them")
    parser.add_argument("--models-at-once", type=int, default=200)
    parser.add_argument("--loop", type=int, default=12, help="partitions that are also trained one by one; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = load_images(options.data)
    if images.test is None:
        parser.error("--data: got a data set without test images")
    train = images.train.select(torch.arange(min(options.train, len(images.train))))
    test = images.test.select(torch.arange(min(options.test, len(images.test))))
    asked = {key: value for key, value in vars(options).items() if key not in ("data", "out")}
    result: dict[str, Any] = {**asked, "torch": torch.__version__, "machine": platform.machine()}
    result |= {"published": PUBLISHED, "ensembles": [], "training": []}
    for partitions in options.partitions:
        if options.loop:
            result["training"].append(measure_loop(train, partitions, options))
            print(result["training"][-1], flush=True)
        for seed in range(options.seeds):
            result["ensembles"].append(measure(train, test, partitions, seed, options))
            print(result["ensembles"][-1], flush=True)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
