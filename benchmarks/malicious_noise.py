"""Malicious noise against its line: test errors of a linear model by share.

    python benchmarks/malicious_noise.py [--seeds 3] [--train 300] [--shares 0.05 0.1 0.2 0.3] [--out FILE]
        [--figure FILE]

Two classes, even and odd digits of the set that comes with scikit-learn, and logistic regression. Of the images a seed
draws as many to train on as it is told, 500 that are the attacker's, and tests on the rest. Kearns and Li's line is the
error ε = β / (1 − β) that no learner can be sure to stay under with a share β of malicious samples.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from taster import Batch
from taster.attacks import (
    DatasetAttack,
    DatasetKnowledge,
    DatasetPoisonSettings,
    indistinguishable_error,
    malicious_noise,
)
from taster.data import as_batch, load_images
from taster.offline import EstimatorTraining, accuracy
from taster.utils.seeds import generator

OWN = 500

MakeAttack = Callable[[float], DatasetAttack]


def pairing(share: float) -> DatasetAttack:
    """Own samples of one class that the model takes for the other's at the first, under the other's label."""
    return malicious_noise(poisoning=DatasetPoisonSettings(poison_fraction=share), source_class=0, target_class=1)


def wrong_labels(share: float) -> DatasetAttack:
    """Own samples under the wrong label."""
    return malicious_noise(poisoning=DatasetPoisonSettings(poison_fraction=share), strategy="random")


ATTACKS: dict[str, MakeAttack] = {"pairing": pairing, "random wrong labels": wrong_labels}


def parity(seed: int, train: int) -> tuple[Batch, Batch, Batch]:
    """Training samples, the attacker's own and test samples, with the label 1 for odd digits."""
    whole = as_batch(load_images("digits").train)
    order = torch.randperm(len(whole), generator=generator(seed, "benchmark"))
    samples = [whole.select(part) for part in (order[:train], order[train : train + OWN], order[train + OWN :])]
    first, second, third = (Batch(some.x, some.y % 2) for some in samples)
    return first, second, third


def errors(attack: DatasetAttack | None, seeds: int, train: int) -> list[float]:
    """The test error in % of each seed."""
    found = []
    for seed in range(seeds):
        clean, own, test = parity(seed, train)
        fit = EstimatorTraining(lambda: LogisticRegression(C=1.0, max_iter=100), 2, seed)
        knows = EstimatorTraining(lambda: LogisticRegression(C=1.0, max_iter=100), 2, 1000 + seed)
        knowledge = DatasetKnowledge(2, own, (knows,), generator(seed, "attack"))
        samples = clean if attack is None else attack(clean, knowledge).samples
        found.append(100 - accuracy(fit(samples), test))
    return found


def draw(by_share: dict[str, dict[float, list[float]]], clean: list[float]) -> Figure:
    """Errors over β, with deviations, and the line."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    shares = sorted(next(iter(by_share.values())))
    fine = [shares[-1] * i / 50 for i in range(1, 51)]
    axes.plot(
        [0, *fine], [0, *(100 * indistinguishable_error(share) for share in fine)], "k--", label="ε = β / (1 − β)"
    )
    for name, found in by_share.items():
        values = [clean, *(found[share] for share in shares)]
        means, spread = (
            [statistics.fmean(v) for v in values],
            [statistics.stdev(v) if len(v) > 1 else 0 for v in values],
        )
        axes.errorbar([0, *shares], means, spread, marker="o", capsize=3, label=name)
    axes.set_xlabel("share of malicious samples, β")
    axes.set_ylabel("test error, %")
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    clean = errors(None, given.seeds, given.train)
    found: dict[str, dict[float, list[float]]] = {}
    for name, make in ATTACKS.items():
        found[name] = {share: errors(make(share), given.seeds, given.train) for share in given.shares}
        shown = ", ".join(
            f"{share:g}: {statistics.fmean(v):.1f} ± {statistics.stdev(v) if len(v) > 1 else 0:.1f}"
            for share, v in found[name].items()
        )
        print(f"{name}: {shown}", flush=True)
    print("clean:", [round(value, 1) for value in clean])
    if given.figure is not None:
        draw(found, clean).savefig(given.figure, dpi=110)
    if given.out is not None:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        settings = {"seeds": given.seeds, "train": given.train, "own": OWN}
        content = {"versions": versions, "settings": settings, "clean": clean, "errors": found}
        given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
