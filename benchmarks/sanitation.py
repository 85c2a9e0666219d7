"""Defences of a training set against wrong labels: what they find, and what accuracy comes of it.

    python benchmarks/sanitation.py --data MNIST [--train 2000] [--trusted 400] [--test 2000] [--seeds 3]
        [--noise 0.1 0.2 0.3 0.4] [--kinds random systematic] [--models logistic net] [--defences NAME ...]
        [--max-fits 5000] [--out FILE]

Images are averaged to at most 14 pixels a side. A share of the labels is wrong: "random" ones are of any other class,
"systematic" ones of the next class (Shen and Sanghavi 2019). Defences that take a share are given the true one, half
of it and twice as much, and none ("default": their own). Precision is the share of wrong labels among what was removed,
recall the share of the wrong labels that was. "none" and "oracle" (wrong labels left out) are the controls. Trusted
samples are of the training images; test images are used for the last line of a row alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from taster import Batch, Learner
from taster.core.fitting import Classifier, Fit
from taster.data import load_images
from taster.defences import DATASET_DEFENCES, DatasetDefence, RobustTraining, TrainingRun
from taster.utils.seeds import generator

SHARES = {"true": 1.0, "half": 0.5, "double": 2.0, "default": None}

TAKE_A_SHARE: dict[str, Callable[[float], dict[str, float]]] = {
    "trimmed_loss": lambda share: {"keep": 1 - share},
    "influence_sanitation": lambda share: {"share": share},
    "score_filter": lambda share: {"share": share},
}
WITHOUT = ("nearest_neighbour_sanitation", "reject_on_negative_impact", "partition_aggregation_training")
CLASSES = 10


class Logistic:
    """Log-probabilities; -100 for a class that was not in the training set."""

    def __init__(self, model: LogisticRegression) -> None:
        self.model = model

    def outputs(self, x: Tensor) -> Tensor:
        found = torch.full((len(x), CLASSES), -100.0)
        found[:, self.model.classes_] = torch.from_numpy(self.model.predict_log_proba(x.flatten(1).numpy())).float()
        return found


def fit_logistic(samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Classifier:
    used = torch.ones(len(samples)) if weights is None else weights
    left = used > 0
    model = LogisticRegression(C=1.0, max_iter=60, tol=1e-3)
    model.fit(samples.x[left].flatten(1).numpy(), samples.y[left].numpy(), used[left].numpy())
    return Logistic(model)


def fit_net(samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Classifier:
    """A hidden layer of 32 units, 15 epochs of SGD."""
    used = torch.ones(len(samples)) if weights is None else weights
    left = samples.select(used > 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pixels = left.x[0].numel()
        model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draw = generator(seed, "order")
    for _ in range(15):
        for index in torch.split(torch.randperm(len(left), generator=draw), 200):
            optimizer.zero_grad()
            cross_entropy(model(left.x[index]), left.y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Learner(model, optimizer, cross_entropy).view()


FITS: dict[str, Fit] = {"logistic": fit_logistic, "net": fit_net}


class RememberingFit:
    """A deterministic training that is not done twice for the same weights of one training set; counts the rest."""

    def __init__(self, fit: Fit, samples: Batch) -> None:
        self.fit, self.samples, self.known, self.fits = fit, samples, dict[bytes, Classifier](), 0

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Classifier:
        if samples is not self.samples:
            self.fits += 1
            return self.fit(samples, weights=weights, seed=seed)
        key = b"" if weights is None or bool((weights == 1).all()) else weights.numpy().tobytes()
        if key not in self.known:
            self.fits += 1
            self.known[key] = self.fit(samples, weights=weights, seed=seed)
        return self.known[key]


def load(args: argparse.Namespace, seed: int) -> tuple[Batch, Batch, Batch]:
    """Training, trusted and test samples."""
    images = load_images(args.data)
    order = torch.randperm(len(images.train.x), generator=generator(seed, "training images"))
    wanted = [args.train, args.trusted]
    if images.test is None:
        wanted.append(args.test)
        found = [Batch(images.train.x[i], images.train.y[i]) for i in torch.split(order[: sum(wanted)], wanted)]
    else:
        found = [Batch(images.train.x[i], images.train.y[i]) for i in torch.split(order[: sum(wanted)], wanted)]
        tested = torch.randperm(len(images.test.x), generator=generator(seed, "test images"))[: args.test]
        found.append(Batch(images.test.x[tested], images.test.y[tested]))
    train, trusted, test = (Batch(_small(some.x), some.y) for some in found)
    return train, trusted, test


def _small(x: Tensor) -> Tensor:
    """From 0 to 1, at most 14 pixels a side."""
    read = x.float() / 255
    return avg_pool2d(read, 2) if read.shape[-1] > 14 else read


def with_wrong_labels(clean: Batch, kind: str, share: float, seed: int) -> tuple[Batch, Tensor]:
    """The set, and which labels are wrong, bool [n]."""
    draw = generator(seed, "wrong labels")
    places = torch.randperm(len(clean), generator=draw)[: round(share * len(clean))]
    by = torch.randint(1, CLASSES, (len(places),), generator=draw) if kind == "random" else 1
    y = clean.y.clone()
    y[places] = (y[places] + by) % CLASSES
    return replace(clean, y=y), y != clean.y


def variants(args: argparse.Namespace, name: str, share: float) -> dict[str, dict[str, Any]]:
    """Settings by what the defence is told."""
    if name in TAKE_A_SHARE:
        return {
            told: {} if factor is None else TAKE_A_SHARE[name](min(factor * share, 0.95))
            for told, factor in SHARES.items()
        }
    return {"default": {"max_fits": args.max_fits} if name == "reject_on_negative_impact" else {}}


def row(classifier: Classifier, weights: Tensor | None, wrong: Tensor, test: Batch) -> dict[str, float | None]:
    removed = None if weights is None else weights == 0
    found = None if removed is None else int((removed & wrong).sum())
    return {
        "removed": None if removed is None else 100 * float(removed.float().mean()),
        "precision": None
        if removed is None or found is None or not removed.any()
        else 100 * found / int(removed.sum()),
        "recall": None if found is None or not wrong.any() else 100 * found / int(wrong.sum()),
        "accuracy": 100 * float((classifier.outputs(test.x).argmax(1) == test.y).float().mean()),
    }


def defend(defence: DatasetDefence | RobustTraining, run: TrainingRun) -> tuple[Classifier, Tensor | None]:
    if isinstance(defence, RobustTraining):
        return defence.train(run)
    weights = defence.weigh(run)
    return run.fit(run.samples, weights=weights, seed=run.seed), weights


def measure(args: argparse.Namespace, model: str, kind: str, share: float, seed: int) -> dict[str, dict[str, Any]]:
    """A row for each defence and what it is told."""
    clean, trusted, test = load(args, seed)
    samples, wrong = with_wrong_labels(clean, kind, share, seed)
    fit = RememberingFit(FITS[model], samples)
    run = TrainingRun(samples, trusted, fit, CLASSES, seed)
    kept = (~wrong).float()
    rows: dict[str, dict[str, Any]] = {
        "none": row(fit(samples, seed=seed), None, wrong, test),
        "oracle": row(fit(samples, weights=kept, seed=seed), kept, wrong, test),
    }
    for name in args.defences:
        if name == "score_filter" and model != "net":
            continue
        for told, settings in variants(args, name, share).items():
            start, fits = time.perf_counter(), fit.fits
            classifier, weights = defend(DATASET_DEFENCES[name](**settings), run)
            seconds = time.perf_counter() - start
            rows[f"{name} {told}"] = row(classifier, weights, wrong, test) | {
                "seconds": seconds,
                "fits": fit.fits - fits,
            }
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, of what every seed has."""
    found: dict[str, Any] = {}
    for key in rows[0]:
        values = [one[key] for one in rows if one[key] is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found[key] = {"mean": statistics.mean(values), "sd": spread, "values": values}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--trusted", type=int, default=400)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4])
    parser.add_argument("--kinds", nargs="+", choices=["random", "systematic"], default=["random", "systematic"])
    parser.add_argument("--models", nargs="+", choices=list(FITS), default=list(FITS))
    parser.add_argument("--defences", nargs="+", choices=[*TAKE_A_SHARE, *WITHOUT], default=[*TAKE_A_SHARE, *WITHOUT])
    parser.add_argument("--max-fits", type=int, default=5000, help="of reject_on_negative_impact")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cells = []
    for model in args.models:
        for kind in args.kinds:
            for share in args.noise:
                rows = [measure(args, model, kind, share, seed) for seed in range(args.seeds)]
                defences = {name: summary([one[name] for one in rows]) for name in rows[0]}
                cells.append({"model": model, "noise": kind, "share": share, "defences": defences})
                print(f"\n{model}, {kind} {100 * share:.0f} %", flush=True)
                for name, found in defences.items():
                    shown = (f"{key} {found[key]['mean']:.1f} ± {found[key]['sd']:.1f}" for key in found)
                    print(f"  {name:40}", ", ".join(shown), flush=True)
                if args.out:  # after each, so that a run that is cut short leaves what it has
                    args.out.write_text(json.dumps(_found(args, cells), indent=1) + "\n")
    if not args.out:
        print(json.dumps(_found(args, cells)))


def _found(args: argparse.Namespace, cells: list[dict[str, Any]]) -> dict[str, Any]:
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    machine = {"torch": torch.__version__, "processor": platform.processor(), "threads": torch.get_num_threads()}
    return {"settings": settings, "machine": machine, "cells": cells}


if __name__ == "__main__":
    main()
