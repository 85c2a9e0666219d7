"""p-tampering against its controls: what it does to one sample, and to the error as a whole, all labels right.

    python benchmarks/p_tampering.py [--seeds 3] [--trials 40] [--train 20] [--shares 0.1 0.2 0.4] [--pair 3 8]
        [--draws 5] [--completions 3] [--out FILE]

Two digits of the set that comes with scikit-learn, and ridge regression of their labels, which takes a fraction of a
millisecond. A trial draws the training images, 120 that
are the attacker's and the test images anew. The target is one of the attacker's, "hard" the one whose wrong class is
likeliest to be a toss-up among models of 20 other training sets of his, "any" a random one; what is raised is the
probability of its wrong class. Without a target it is the error. Each seed is a block of trials, and the deviation is
that between blocks. The bias that is proved for the choice by rejection is p ν / (1 − p + p μ), with the mean μ and the
variance ν of what is raised over clean training sets.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taster import Batch
from taster.attacks import DatasetAttack, DatasetBudget, DatasetKnowledge, Poison, TamperingSettings, p_tampering
from taster.data import as_batch, load_images
from taster.offline import accuracy
from taster.utils.seeds import generator

OWN = 120
PENALTY = 1.0
Trial = tuple[Batch, Batch, Batch, torch.Generator]


def drawn(images: Batch, train: int, seed: int, trial: int) -> Trial:
    """Training, own and test images, and a generator for the attack."""
    draw = generator(seed, f"trial {trial}")
    order = torch.randperm(len(images), generator=draw)
    parts = [images.select(part) for part in (order[:train], order[train : train + OWN], order[train + OWN :])]
    return parts[0], parts[1], parts[2], draw


class Linear:
    """A score from about -1 to 1, which is read as the logits -2s and 2s."""

    def __init__(self, middle: Tensor, slope: Tensor, level: Tensor) -> None:
        self.middle, self.slope, self.level = middle, slope, level

    def outputs(self, x: Tensor) -> Tensor:
        score = 2 * ((x.flatten(1) - self.middle) @ self.slope + self.level)
        return torch.stack([-score, score], 1)


def least_squares(samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Linear:
    """Ridge regression of the labels -1 and 1, by the equations of the samples."""
    x, y = samples.x.flatten(1), 2.0 * samples.y - 1
    middle, level = x.mean(0), y.mean()
    inner = x - middle
    slope = inner.T @ torch.linalg.solve(inner @ inner.T + PENALTY * torch.eye(len(x)), y - level)
    return Linear(middle, slope, level)


def wrong_probability(training: Batch, target: Batch) -> float:
    scores = least_squares(training).outputs(target.x).softmax(1)
    return float(scores[0, 1 - int(target.y[0])])


def hardest(own: Batch, train: int, draw: torch.Generator) -> int:
    """The own sample whose wrong class has a mean probability closest to a half, among models of other own samples."""
    total, seen = torch.zeros(len(own)), torch.zeros(len(own))
    for _ in range(20):
        order = torch.randperm(len(own), generator=draw)
        used, others = order[:train], order[train:]
        scores = least_squares(own.select(used)).outputs(own.x[others]).softmax(1)
        total[others] += scores.gather(1, 1 - own.y[others][:, None])[:, 0]
        seen[others] += 1
    return int((total / seen.clamp_min(1) - 0.5).abs().argmin())


def noise(share: float) -> DatasetAttack:
    """Images of noise in the place of others, under the labels of these."""
    budget = DatasetBudget(share, content="any")

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        places, x = budget.draw(len(clean), knowledge.generator), clean.x.clone()
        x[places] = torch.rand(x[places].shape, generator=knowledge.generator)
        return Poison(Batch(x, clean.y))

    return DatasetAttack(budget, poison)


def made(choice: str, share: float, target: int | None, wanted: int | None, args: argparse.Namespace) -> DatasetAttack:
    if choice == "noise":
        return noise(share)
    settings: dict[str, Any] = {"target": target, "target_class": wanted} if choice != "loss" else {}
    return p_tampering(
        tampering=TamperingSettings(
            poison_fraction=share,
            choice=choice,  # type: ignore[arg-type]
            draws=args.draws,
            completions=args.completions,
            any_class=args.any_class,
            **settings,
        )
    )


def tried(images: Batch, aim: str, choice: str, share: float, seed: int, trial: int, args: argparse.Namespace) -> float:
    """What is raised in one trial, in percent."""
    clean, own, test, draw = drawn(images, args.train, seed, trial)
    target = None
    if aim != "error":
        target = hardest(own, args.train, draw) if aim == "hard" else int(torch.randint(OWN, (), generator=draw))
    wanted = None if target is None else 1 - int(own.y[target])
    samples = clean
    if choice != "none":
        knowledge = DatasetKnowledge(2, own, (least_squares,), draw, high=1.0)
        samples = made(choice, share, target, wanted, args)(clean, knowledge).samples
    if target is None:
        return 100 - accuracy(least_squares(samples), test)
    return 100 * wrong_probability(samples, own.select(slice(target, target + 1)))


def cell(images: Batch, aim: str, choice: str, share: float, args: argparse.Namespace) -> dict[str, Any]:
    blocks = [
        [tried(images, aim, choice, share, seed, trial, args) for trial in range(args.trials)]
        for seed in range(args.seeds)
    ]
    means, whole = [statistics.fmean(block) for block in blocks], [value for block in blocks for value in block]
    row: dict[str, Any] = {
        "aim": aim,
        "choice": choice,
        "share": share,
        "mean": round(statistics.fmean(means), 2),
        "sd": round(statistics.stdev(means), 2) if len(means) > 1 else None,
        "blocks": [round(value, 2) for value in means],
        "trials": len(whole),
        "variance": round(statistics.variance([value / 100 for value in whole]), 4),
        "values": [round(value, 1) for value in whole],
    }
    if aim != "error":
        row["turned"] = round(100 * statistics.fmean(value > 50 for value in whole), 1)
    return row


def raised(values: list[float], clean: list[float]) -> dict[str, float]:
    """By how much, over the same trials without the attack, with the standard error of that."""
    differences = [after - before for after, before in zip(values, clean, strict=True)]
    spread = statistics.stdev(differences) / len(differences) ** 0.5
    return {"raised": round(statistics.fmean(differences), 2), "standard_error": round(spread, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--train", type=int, default=20)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--pair", type=int, nargs=2, default=[3, 8])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--completions", type=int, default=3)
    parser.add_argument("--any-class", action="store_true", help="a sample may be replaced by one of the other class")
    parser.add_argument("--aims", nargs="+", choices=["hard", "any", "error"], default=["hard", "any", "error"])
    parser.add_argument("--choices", nargs="+", default=["noise", "random", "loss", "gain", "rejection"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = as_batch(load_images("digits").train)
    first, second = args.pair
    chosen = whole.select(((whole.y == first) | (whole.y == second)).nonzero().flatten())
    images = Batch(chosen.x, (chosen.y == second).long())
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    rows: list[dict[str, Any]] = []
    for aim in args.aims:
        cells = [("none", 0.0), *((choice, share) for choice in args.choices for share in args.shares)]
        clean: list[float] = []
        for choice, share in cells:
            if choice == "loss" and aim != "error":
                continue  # knows of no target
            row = cell(images, aim, choice, share, args)
            clean = clean or row["values"]
            rows.append(row | raised(row["values"], clean))
            print({key: value for key, value in rows[-1].items() if key != "values"}, flush=True)
            if args.out:  # after each, so that a run that is cut short leaves what it has
                args.out.write_text(json.dumps({"settings": settings, "versions": versions, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
