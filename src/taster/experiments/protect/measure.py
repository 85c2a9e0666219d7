"""What a scraper would learn of protected images: a net that is trained on them here, plainly and with
countermeasures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.defences import (
    RobustTraining,
    TrainingRun,
    adversarial_training,
    clean_share,
    cutmix,
    cutout,
    early_stopping,
    gaussian_noise,
    grey,
    jpeg,
    mixup,
)
from taster.errors import DataError
from taster.experiments.protect.image_files import FoundImages
from taster.experiments.protect.protect import Protection
from taster.experiments.protect.victim import small_training
from taster.stats.perturbation_measures import PerturbationMeasures, measure_perturbations
from taster.utils.seeds import derived_seed, generator

Kind = Literal["unprotected", "random noise", "protected"]
KINDS: tuple[Kind, ...] = ("unprotected", "random noise", "protected")

PLAIN = "none"

_LEAST = 4
"""Images of a class: one to test with, one that the scraper has clean, and two to train on."""

_MOST = 1500
"""Images that are used, so that a large folder takes no longer than a middling one."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Score:
    """How many test images each seed's net got right.

    Attributes:
        hits: a number a seed.
        tested: images, for each.
    """

    hits: tuple[int, ...]
    tested: int

    @property
    def accuracy(self) -> float:
        """Mean over seeds, in %."""
        return 100 * sum(self.hits) / (self.tested * len(self.hits))


@dataclass(frozen=True)
class Measurement:
    """What was found.

    Attributes:
        trained, trusted, tested: how many images were trained on, were had clean by the scraper, and tested with.
        chance: accuracy of naming the most frequent class, in %.
        seeds: how many.
        scores: by countermeasure ("none" first) and kind of images.
        sizes: of the noise; None where all images are as they were.
    """

    trained: int
    trusted: int
    tested: int
    chance: float
    seeds: int
    scores: dict[str, dict[Kind, Score]]
    sizes: PerturbationMeasures | None


def countermeasures(channels: int, size: tuple[int, int], epsilon: float, trusted: int) -> dict[str, RobustTraining]:
    """What a scraper may do, by name.

    Args:
        channels: of the images; of gray ones no colour can be taken away.
        size: theirs.
        epsilon: of the noise, which an adversarial training of half its size is set against.
        trusted: images that the scraper has clean.
    """
    found = {
        "jpeg": jpeg(),
        "mixup": mixup(),
        "cutmix": cutmix(),
        "cutout": cutout(length=max(1, min(size) // 2)),
        "gaussian_noise": gaussian_noise(),
        "early_stopping": early_stopping(least=trusted),
        "clean_share": clean_share(least=trusted),
        "adversarial_training": adversarial_training(rho=epsilon / 2, steps=3),
    }
    return {"grey": grey(), **found} if channels == 3 else found


def check_classes(found: FoundImages) -> None:
    """Raises DataError where a class has too few images to measure anything with."""
    counts = Counter(found.labels)
    least = min(counts, key=lambda label: counts[label])
    if counts[least] < _LEAST:
        raise DataError(
            f"{found.folder}: got {counts[least]} images of the class {found.class_names[least]!r}, wanted at least "
            f"{_LEAST} to measure with; --no-measure leaves that out"
        )


def measure(
    protection: Protection,
    *,
    epochs: int,
    seeds: int,
    with_countermeasures: bool,
    on_first: Callable[[Measurement], None] | None = None,
    on_training: Progress | None = None,
) -> Measurement:
    """Trains nets on a part of the images, as they were, with random noise and protected, and tests them on others as
    they were.

    Args:
        protection: what was written.
        epochs: of a training.
        seeds: trainings of each kind, which differ by first weights, order and split.
        with_countermeasures: whether to try these too.
        on_first: is given the plain trainings as soon as they are over.
        on_training: called after each training.

    Raises:
        DataError: see `check_classes`.
    """
    check_classes(protection.found)
    splits = [_split(protection.labels, seed + protection.request.seed) for seed in range(seeds)]
    train, trusted, test = splits[0]
    x, noisy = protection.clean, _with_random_noise(protection)
    sets: dict[Kind, Tensor] = {"unprotected": x, "random noise": noisy, "protected": protection.protected}
    epsilon = protection.request.method.ball.epsilon
    defences = countermeasures(int(x.shape[1]), protection.size, epsilon, len(trusted)) if with_countermeasures else {}
    scores: dict[str, dict[Kind, Score]] = {}
    sizes = _sizes(protection)
    for name, defence in [(PLAIN, None), *defences.items()]:
        scores[name] = {
            kind: Score(
                tuple(
                    _hits(protection, sets[kind], split, defence, epochs, seed, on_training)
                    for seed, split in enumerate(splits)
                ),
                len(test),
            )
            for kind in KINDS
        }
        found = Measurement(
            len(train),
            len(trusted),
            len(test),
            100 * float(torch.bincount(protection.labels[test]).max()) / len(test),
            seeds,
            scores,
            sizes,
        )
        if name == PLAIN and on_first is not None:
            on_first(found)
    return found


def trainings(protection: Protection, seeds: int, *, with_countermeasures: bool) -> int:
    """How many trainings a measurement makes."""
    x = protection.clean
    more = len(countermeasures(int(x.shape[1]), protection.size, 1.0, 1)) if with_countermeasures else 0
    return len(KINDS) * seeds * (1 + more)


def _hits(
    protection: Protection,
    x: Tensor,
    split: tuple[Tensor, Tensor, Tensor],
    defence: RobustTraining | None,
    epochs: int,
    seed: int,
    on_training: Progress | None,
) -> int:
    """How many clean test images a net gets right that is trained on these."""
    train, trusted, test = split
    y, classes = protection.labels, len(protection.found.class_names)
    own = derived_seed(protection.request.seed, f"scraper {seed}")
    shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    fit = small_training(shape, classes, len(train), epochs, own)
    samples = Batch(x[train], y[train])
    run = TrainingRun(samples, Batch(protection.clean[trusted], y[trusted]), fit, classes, own)
    classifier = fit(samples) if defence is None else defence.train(run)[0]
    if on_training is not None:
        on_training(1)
    return int((classifier.outputs(protection.clean[test]).argmax(1) == y[test]).sum())


def _split(labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places to train on, that the scraper has clean, and to test with: of each class about 6, 1 and 3 tenths."""
    draws = generator(seed, "protect split")
    counts = torch.bincount(labels)
    part = min(1.0, _MOST / len(labels))
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for label, count in enumerate(counts.tolist()):
        kept = max(_LEAST, round(count * part))
        places = (labels == label).nonzero().flatten()[torch.randperm(count, generator=draws)][:kept]
        clean, tested = max(1, round(0.1 * kept)), max(1, round(0.3 * kept))
        for some, into in zip(torch.split(places, [kept - clean - tested, clean, tested]), found, strict=True):
            into.append(some)
    train, trusted, test = (torch.cat(places).sort().values for places in found)
    return train, trusted, test


def _with_random_noise(protection: Protection) -> Tensor:
    """The images with noise of the same size and no aim: ±ε in each value, or a random direction."""
    draws = generator(protection.request.seed, "protect random noise")
    return protection.request.method.ball.random_boundary(protection.clean, draws)


def _sizes(protection: Protection) -> PerturbationMeasures | None:
    if torch.equal(protection.clean, protection.protected):
        return None
    return measure_perturbations(
        protection.clean.numpy(),
        protection.protected.numpy(),
        protection.labels.numpy(),
        seed=protection.request.seed,
    )
