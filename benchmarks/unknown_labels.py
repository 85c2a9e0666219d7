"""Noise for images whose labels are not known, or not those that somebody trains with later.

    python benchmarks/unknown_labels.py --data CIFAR10 [--train 1000] [--seeds 3] [--epochs 15]
        [--clusters 5 10 20] [--out FILE.json]

Whoever protects the images knows their ten labels, whether they show a vehicle or an animal, or nothing (random labels
for methods that need some, none for unlearnable clusters). The victim, `small_cnn`, is trained with the ten labels, and
on the same images with the two. The protector's nets have other first weights than the victim's. Unlearnable clusters
rest on as many other images with their ten labels. Accuracy on clean test images; naming one class gets 10 of ten and
60 of two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taster import Batch
from taster.attacks import (
    DatasetAttack,
    DatasetKnowledge,
    PerturbationSettings,
    error_minimising_noise,
    unlearnable_clusters,
)
from taster.attacks.unlearnable.alternating import AlternatingSettings
from taster.attacks.unlearnable.unlearnable_clusters import ClusterSettings
from taster.core.training_settings import TrainingSettings
from taster.data import as_batch, load_images
from taster.models import small_cnn
from taster.offline import NetTraining
from taster.utils.seeds import generator

ANIMALS = (2, 3, 4, 5, 6, 7)
"""Bird, cat, deer, dog, frog and horse of CIFAR-10; the others are vehicles."""

EPSILON = 8 / 255


def coarse(y: Tensor) -> Tensor:
    """1 for animals, 0 for vehicles."""
    return (y[:, None] == torch.tensor(ANIMALS)).any(1).to(torch.int64)


def fit(first: int, epochs: int) -> NetTraining:
    """The training of a net with these first weights."""

    def make(number: int) -> nn.Module:
        torch.manual_seed(first + number)
        return small_cnn((3, 32, 32), 10, width=8, grid=4)

    return NetTraining(make, TrainingSettings(epochs=epochs, batch_size=50), seed=first)


def minimising() -> DatasetAttack:
    settings = AlternatingSettings(pgd_steps=5, step_size=EPSILON / 5, max_rounds=20)
    return error_minimising_noise(perturbation=PerturbationSettings(epsilon=EPSILON), alternating=settings)


def clusters(count: int) -> DatasetAttack:
    return unlearnable_clusters(
        perturbation=PerturbationSettings(epsilon=EPSILON), cluster=ClusterSettings(clusters=count)
    )


def noise(x: Tensor, draws: torch.Generator) -> Tensor:
    """±ε on each value."""
    signs = 2.0 * torch.randint(0, 2, x.shape, generator=draws) - 1
    return (x + EPSILON * signs).clamp(0, 1)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", required=True)
    given.add_argument("--train", type=int, default=1000)
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--epochs", type=int, default=15)
    given.add_argument("--clusters", type=int, nargs="+", default=[5, 10, 20])
    given.add_argument("--out", type=Path)
    options = given.parse_args()
    torch.set_num_threads(1)
    images = load_images(options.data)
    assert images.train is not None
    assert images.test is not None
    test = as_batch(images.test.select(torch.arange(2000)))
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        order = torch.randperm(len(images.train), generator=generator(seed, "split"))
        clean, own = (
            as_batch(images.train.select(part)) for part in torch.split(order[: 2 * options.train], options.train)
        )
        draws = generator(seed, "draws")
        at_random = torch.randint(0, 10, clean.y.shape, generator=draws)

        def knowledge(seed: int = seed, own: Batch = own) -> DatasetKnowledge:
            return DatasetKnowledge(10, own, (fit(10_000 + 100 * seed, options.epochs),), generator(seed, "attack"))

        def perturbed(attack: DatasetAttack, y: Tensor, x: Tensor = clean.x) -> Callable[[], Tensor]:
            return lambda: attack(Batch(x, y), knowledge()).samples.x

        makers: dict[str, Callable[[], Tensor]] = {
            "clean": lambda x=clean.x: x,  # type: ignore[misc]
            "random noise": lambda x=clean.x, draws=draws: noise(x, draws),  # type: ignore[misc]
            "error-minimising, ten labels": perturbed(minimising(), clean.y),
            "error-minimising, vehicle or animal": perturbed(minimising(), coarse(clean.y)),
            "error-minimising, labels at random": perturbed(minimising(), at_random),
        }
        makers |= {f"clusters, p = {p}": perturbed(clusters(p), clean.y) for p in options.clusters}
        for name, make in makers.items():
            began = time.perf_counter()
            x = make()
            row: dict[str, Any] = {"noise": name, "seed": seed, "seconds": round(time.perf_counter() - began, 1)}
            for labels, of in (("ten labels", lambda y: y), ("two labels", coarse)):
                view = fit(100 * seed, options.epochs)(Batch(x, of(clean.y)))
                row[labels] = view.accuracy(test.x, of(test.y))
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    for name in dict.fromkeys(row["noise"] for row in rows):
        same = [row for row in rows if row["noise"] == name]
        print(name, *(f"{key} {_shown([row[key] for row in same])}" for key in ("ten labels", "two labels")), sep="; ")


def _shown(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()
