"""Certified aggregation over partitions of MNIST: what is certified, and what training many models at once saves.

    python benchmarks/partition_aggregation.py --data MNIST [--base small] [--partitions 1200 250] [--seeds 1]
        [--epochs 15] [--test 1000] [--loop 12] [--rounds 3] [--spread 1] [--train 60000] [--compare 0] [--out FILE]

What a base model sees is fixed beforehand, nothing is computed from the training set: a small fully connected net on
images averaged to 14x14 ("small"), small convolutional nets, or a linear classifier on pixels or features that
`stroke_features.py` computes of each image by itself, trained by SGD or by ridge regression ("ridge ..."). Ensembles
are trained by one vectorized call, and read with both votes. Baseline of the times: `torch.optim.SGD` on one model
after the other, of the same first `--loop` partitions as a vectorized call beside it, in turn, `--rounds` times after
one to warm up; the ratio is a median of pairs. No setting was chosen by test images: `--compare N` trains the first N
base models of each kind on all images but the last 1,000 of the training set, and says in how many cases they are
right on those.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stroke_features import one_by_one
from torch import Tensor, nn

from taster import Batch
from taster.data import load_images
from taster.defences.training import (
    CertifiedEnsemble,
    CertifiedPrediction,
    SGDSettings,
    TrainBaseModels,
    finite_aggregation,
    finite_aggregation_certificate,
    looped_training,
    ridge_training,
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


def convolution() -> nn.Module:
    """16 filters of 5x5 on images averaged to 14x14, pooled: 8,266 weights."""
    return nn.Sequential(
        nn.AvgPool2d(2),
        Standardise(),
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(784, 10),
    )


def two_convolutions() -> nn.Module:
    """The same with 32 filters of 3x3 behind, and group norm: 8,074 weights."""
    return nn.Sequential(
        nn.AvgPool2d(2),
        Standardise(),
        nn.Conv2d(1, 16, 5, padding=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


@dataclass(frozen=True)
class Base:
    """What an ensemble is made of.

    Attributes:
        make: makes a base model that is trained by SGD; None: ridge regression.
        features: what it sees of the images in bytes; None: the images.
    """

    make: Callable[[], nn.Module] | None
    features: Callable[[Tensor], Tensor] | None = None

    def training(self, options: argparse.Namespace) -> TrainBaseModels:
        """How all are trained."""
        if self.make is None:
            return ridge_training(penalty=options.penalty)
        sgd = SGDSettings(epochs=options.epochs, batch_size=16)
        return vectorized_training(self.make, sgd=sgd, models_at_once=options.models_at_once)


BASES = {
    "small": Base(small_net),
    "convolution": Base(convolution),
    "two convolutions": Base(two_convolutions),
    "linear": Base(partial(nn.Linear, 196, 10), partial(one_by_one, deskew=False, edge=False)),
    "edges": Base(partial(nn.Linear, 512, 10), partial(one_by_one, deskew=False, edge=True)),
    "deskewed": Base(partial(nn.Linear, 196, 10), partial(one_by_one, deskew=True, edge=False)),
    "deskewed edges": Base(partial(nn.Linear, 512, 10), partial(one_by_one, deskew=True, edge=True)),
    "ridge": Base(None, partial(one_by_one, deskew=False, edge=False)),
    "ridge edges": Base(None, partial(one_by_one, deskew=False, edge=True)),
    "ridge deskewed edges": Base(None, partial(one_by_one, deskew=True, edge=True)),
}


def seen(images: Batch, base: Base) -> Batch:
    """Images as the base models see them."""
    return images if base.features is None else Batch(base.features(images.x), images.y)


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


def predict(ensemble: CertifiedEnsemble, test: Batch, ways: list[str]) -> tuple[float, dict[str, CertifiedPrediction]]:
    """The mean accuracy of a base model, in percent, and the votes that are asked for, in one pass over the images."""
    right, found = 0, {vote: list[CertifiedPrediction]() for vote in ways}
    for x, y in zip(torch.split(test.x, 100), torch.split(test.y, 100), strict=True):
        scores = ensemble.models.scores(x)
        votes = votes_of(scores)
        right += int((votes == y[:, None]).sum())
        for vote, parts in found.items():
            if vote == "run_off":
                parts.append(run_off_certificate(scores, ensemble.bases))
            else:
                parts.append(finite_aggregation_certificate(votes, 10, ensemble.bases))
    joined = {
        vote: CertifiedPrediction(torch.cat([p.labels for p in parts]), torch.cat([p.radius for p in parts]))
        for vote, parts in found.items()
    }
    return 100 * right / (len(test) * len(ensemble.models)), joined


def measure(train: Batch, test: Batch, partitions: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    aggregation = finite_aggregation(partitions=partitions, spread=options.spread, seed=seed)
    together = BASES[options.base].training(options)
    made: list[Any] = []
    wall, busy = seconds(lambda: made.append(aggregation(train.x, train.y, together, classes=10)))
    ensemble = made[0]
    budgets = [round(partitions * share) for share in (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)]
    read: list[Any] = []
    taken, _ = seconds(lambda: read.append(predict(ensemble, test, options.votes)))
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


def measure_loop(train: Batch, partitions: int, options: argparse.Namespace) -> dict[str, Any]:
    """The vectorized call against the loop, on the same partitions, in turn."""
    sgd = SGDSettings(epochs=options.epochs, batch_size=16)
    members = finite_aggregation(partitions=partitions).divide(train.x, train.y).members[: options.loop]
    make = BASES[options.base].make
    assert make is not None
    ways: dict[str, TrainBaseModels] = {
        "loop": looped_training(make, sgd=sgd),
        "vectorized": vectorized_training(make, sgd=sgd, models_at_once=options.models_at_once),
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


def compare(images: Batch, partitions: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """In how many cases base models of each kind are right on images that they were not trained on."""
    found, held = [], len(images) - 1000
    for name, base in BASES.items():
        train, others = images.select(torch.arange(held)), images.select(torch.arange(held, len(images)))
        members = finite_aggregation(partitions=partitions).divide(train.x, train.y).members[: options.compare]
        used = torch.cat(list(members))
        places = torch.split(torch.arange(len(used)), [len(part) for part in members])
        samples, shown = seen(train.select(used), base), seen(others, base)
        way = base.training(options)
        began = time.process_time()
        models = way(samples.x, samples.y, places, classes=10, seed=0)
        busy = time.process_time() - began
        right = (votes_of(models.scores(shown.x)) == shown.y[:, None]).double().mean(0)
        row = {
            "base": name,
            "partitions": partitions,
            "models": len(members),
            "epochs": options.epochs if base.make else None,
            "right": round(100 * float(right.mean()), 2),
            "cpu_s_each": round(busy / len(members), 3),
        }
        print(row, flush=True)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="MNIST, as a folder or a name on the hub")
    parser.add_argument("--base", choices=list(BASES), default="small")
    parser.add_argument("--compare", type=int, default=0, help="base models of each kind to compare, and nothing else")
    parser.add_argument("--partitions", type=int, nargs="+", default=[1200, 250])
    parser.add_argument("--spread", type=int, default=1, help="d of finite aggregation; 1: Deep Partition Aggregation")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--penalty", type=float, default=1.0, help="of ridge regression")
    parser.add_argument("--train", type=int, default=60_000, help="training images, the first of them")
    parser.add_argument("--test", type=int, default=1000, help="test images, the first of them")
    parser.add_argument("--votes", nargs="+", choices=["plurality", "run_off"], default=["plurality", "run_off"])
    parser.add_argument("--models-at-once", type=int, default=200)
    parser.add_argument("--loop", type=int, default=12, help="partitions that are also trained one by one; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    options = parser.parse_args()
    if options.loop and BASES[options.base].make is None:
        parser.error("--loop: got ridge regression, which is not trained by SGD; wanted --loop 0")
    torch.set_num_threads(options.threads)
    images = load_images(options.data)
    if images.test is None:
        parser.error("--data: got a data set without test images")
    train = Batch(images.train.x[: options.train], images.train.y[: options.train])
    test = Batch(images.test.x[: options.test], images.test.y[: options.test])
    asked = {key: value for key, value in vars(options).items() if key not in ("data", "out")}
    result: dict[str, Any] = {**asked, "torch": torch.__version__, "machine": platform.machine()}
    result |= {"published": PUBLISHED, "ensembles": [], "training": []}
    if options.compare:
        result["compared"] = [row for k in options.partitions for row in compare(train, k, options)]
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
        return
    began = time.process_time()
    train, test = seen(train, BASES[options.base]), seen(test, BASES[options.base])
    result["features_cpu_s"] = round(time.process_time() - began, 1)
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
