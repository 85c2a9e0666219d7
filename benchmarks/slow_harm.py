"""Harm that adds up in steps of a point or two, and harm to a model that learns from random weights behind the guard.

    python benchmarks/slow_harm.py [--seeds 5] [--only NAME ...] [--out FILE]

Attackers who need no crafting, on made-up data (1,000 trusted samples) and on scikit-learn's digits (800), other
samples for the test, batches of 32, SGD. "one class" has four samples of one class in each batch, which bear another
label, for 60 steps on a trained net; "1 of 10, 5 %" is one of ten classes, which has 5 % of the samples. "learned
behind the guard" does the same to a net that has learned from random weights behind it for 600 steps, which gives it
the limits of those days. "alternating, young" begins with random weights, and from step 40 on moves the labels of a
part of every other batch on by one: two samples more each time that this passes, four less each time that it does not.
Accuracies, in percent, on
the test samples; "lowest" is the least that any step left.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from setting import spread
from sklearn.datasets import load_digits, make_classification
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import taster
from taster import Batch, Guard, Learner

BATCH, PROBE, VICTIMS = 32, 1000, 4
GUARDS: dict[str, Callable[[Batch, int], Guard]] = {
    "none": lambda probe, seed: Guard(),  # noqa: ARG005
    "guard": lambda probe, seed: taster.guard(probe, seed=seed),
}


@dataclass(frozen=True)
class Parts:
    """Samples to learn from, trusted ones, and those to test on."""

    train: Batch
    probe: Batch
    test: Batch
    classes: int


def made_up(seed: int, classes: int, share: float) -> Parts:
    """Gaussian classes of which the last is rare, one cluster each."""
    shares = [(1 - share) / (classes - 1)] * (classes - 1) + [share]
    x, y = make_classification(
        7000,
        30,
        n_informative=20,
        n_redundant=0,
        n_classes=classes,
        n_clusters_per_class=1,
        weights=shares,
        class_sep=1.6,
        flip_y=0.0,
        random_state=seed,
    )
    x = (x - x.mean(0)) / x.std(0)
    return parted(torch.from_numpy(x).float(), torch.from_numpy(y).long(), 4000, classes)


def digits(seed: int) -> Parts:
    """Images of digits: few, so that 800 are trusted."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return parted(torch.from_numpy(x / 16).float()[order], torch.from_numpy(y).long()[order], 600, 10, 800)


def parted(x: Tensor, y: Tensor, train: int, classes: int, probe: int = PROBE) -> Parts:
    ends = train, train + probe
    of_train, of_probe, of_test = (Batch(a, b) for a, b in zip(x.tensor_split(ends), y.tensor_split(ends), strict=True))
    return Parts(of_train, of_probe, of_test, classes)


def net(parts: Parts, seed: int, hidden: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(parts.train.x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, parts.classes))


class Stream:
    """Draws batches, honest or of an attacker."""

    def __init__(self, parts: Parts, seed: int) -> None:
        self._train, self._draw = parts.train, torch.Generator().manual_seed(seed + 7)
        self._by_class = {
            label: ((self._train.y == label).nonzero()[:, 0], (self._train.y != label).nonzero()[:, 0])
            for label in range(parts.classes)
        }

    def honest(self, count: int = BATCH) -> Batch:
        return self._train.select(self._of(torch.arange(len(self._train)), count))

    def denying(self, label: int) -> Batch:
        """Some samples of one class say that they are of the next, the others are honest."""
        members, others = self._by_class[label]
        victims = self._train.select(self._of(members, VICTIMS))
        rest = self._train.select(self._of(others, BATCH - VICTIMS))
        wrong = torch.full_like(victims.y, 0 if label else 1)
        return Batch(torch.cat([victims.x, rest.x]), torch.cat([wrong, rest.y]))

    def _of(self, rows: Tensor, count: int) -> Tensor:
        return rows[torch.randint(len(rows), (count,), generator=self._draw)]


def accuracies(learner: Learner, test: Batch, label: int | None) -> tuple[float, float]:
    """Overall, and in one class."""
    view = learner.view()
    overall = view.accuracy(test.x, test.y)
    own = test if label is None else test.select((test.y == label).nonzero()[:, 0])
    return overall, view.accuracy(own.x, own.y)


def pretrained(parts: Parts, seed: int, hidden: int, rate: float, steps: int) -> nn.Module:
    model = net(parts, seed, hidden)
    optimizer, stream = torch.optim.SGD(model.parameters(), rate, momentum=0.9), Stream(parts, seed - 7)
    for _ in range(steps):
        batch = stream.honest()
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def one_class(classes: int, share: float) -> Callable[[int, Callable[[Batch, int], Guard]], dict[str, float]]:
    def run(seed: int, made: Callable[[Batch, int], Guard]) -> dict[str, float]:
        parts = made_up(seed, classes, share)
        model = pretrained(parts, seed, 48, 0.05, 800)
        learner = Learner(model, torch.optim.SGD(model.parameters(), 0.02), cross_entropy, made(parts.probe, seed))
        return struck(learner, parts, Stream(parts, seed), classes - 1, 60)

    return run


def learned_behind(seed: int, made: Callable[[Batch, int], Guard]) -> dict[str, float]:
    parts = digits(seed)
    model, stream = net(parts, seed, 32), Stream(parts, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    learner = Learner(model, optimizer, cross_entropy, made(parts.probe, seed))
    for _ in range(600):
        learner.step(stream.honest())
    for group in optimizer.param_groups:
        group["lr"] = 0.03
    return struck(learner, parts, stream, 8, 80)


def struck(learner: Learner, parts: Parts, stream: Stream, label: int, steps: int) -> dict[str, float]:
    before, own_before = accuracies(learner, parts.test, label)
    refused, lowest = 0, before
    for _ in range(steps):
        refused += not learner.step(stream.denying(label)).verdict.committed
        lowest = min(lowest, accuracies(learner, parts.test, None)[0])
    after, own_after = accuracies(learner, parts.test, label)
    return {
        "before": before,
        "after": after,
        "lowest": lowest,
        "class before": own_before,
        "class after": own_after,
        "refused": 100 * refused / steps,
    }


def alternating(seed: int, made: Callable[[Batch, int], Guard]) -> dict[str, float]:
    parts = digits(seed)
    model, stream = net(parts, seed, 32), Stream(parts, seed)
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, made(parts.probe, seed))
    for _ in range(40):
        learner.step(stream.honest())
    best = lowest = accuracies(learner, parts.test, None)[0]
    wrong, refused, steps = VICTIMS, 0, 200
    for step in range(steps):
        batch = stream.honest()
        if step % 2 == 0:
            y = batch.y.clone()
            y[:wrong] = (y[:wrong] + 1) % parts.classes
            batch = Batch(batch.x, y)
        record = learner.step(batch)
        if step % 2 == 0:
            passed = record.verdict.committed and record.attempts <= 1
            wrong = min(BATCH, wrong + 2) if passed else max(2, wrong - 4)
        refused += not record.verdict.committed
        now = accuracies(learner, parts.test, None)[0]
        best, lowest = max(best, now), min(lowest, now - best)
    after = accuracies(learner, parts.test, None)[0]
    return {"before": best, "after": after, "lowest": best + lowest, "refused": 100 * refused / steps}


CASES = {
    "one class, 1 of 10, 5 %": one_class(10, 0.05),
    "one class, 1 of 10, 10 %": one_class(10, 0.1),
    "one class, 1 of 20, 2 %": one_class(20, 0.02),
    "learned behind the guard": learned_behind,
    "alternating, young": alternating,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("taster").setLevel(logging.ERROR)
    keys = ("before", "after", "lowest", "class before", "class after", "refused")
    rows = []
    print(f"| attack | guard | {' | '.join(keys)} |")
    print(f"|---|---|{'---:|' * len(keys)}")
    for name in options.only:
        for guard, made in GUARDS.items():
            runs = [CASES[name](seed, made) for seed in range(options.seeds)]
            rows.append({"attack": name, "guard": guard, "runs": runs})
            cells = [spread([run[key] for run in runs]) if key in runs[0] else "–" for key in keys]
            print("| " + " | ".join([name, guard, *cells]) + " |", flush=True)
            if options.out:
                about = {"torch": torch.__version__, "machine": platform.machine(), "probe": PROBE, "rows": rows}
                options.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
