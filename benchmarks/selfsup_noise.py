"""Noise against being learned from, on trainings with labels and without: accuracy of both, and under swaps.

    python benchmarks/selfsup_noise.py [--images 800] [--epochs 30] [--epsilon 0.25] [--seeds 0 1 2]
        [--noises clean error_minimising_noise ...] [--out FILE]

Scikit-learn's digits (8x8), of which 300 are clean images that a scraper has labels of, 100 are the attacker's own, and
the rest test images. For each noise of ε (linf) on all training images, made by a net with other first weights than the
victim's:

- supervised: a net trained on the protected images with their labels, 15 epochs;
- probe: a net trained on them by SimCLR, and a linear classifier on its features, trained on the protected images with
  their labels; `trusted`: trained on the clean images in their place;
- within, between: the supervised net where each image has the perturbation of another image of its class, or of the
  next class;
- linear and two-layer separability, and CSD, of the perturbations.

`clean` has the controls: features of the net's random weights, and 60 % wrong labels, which the supervised net and the
linear classifier see.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taster import Batch
from taster.attacks import (
    DatasetKnowledge,
    PerturbationSettings,
    contrastive_poison,
    error_minimising_noise,
    random_class_noise,
    transferable_noise,
)
from taster.attacks.unlearnable.alternating import AlternatingSettings
from taster.attacks.unlearnable.contrastive_noise import ContrastiveSettings
from taster.attacks.unlearnable.rearranged_noise import between_classes, within_classes
from taster.attacks.unlearnable.set_noise import NoiseAttack
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.data import as_batch, load_images
from taster.defences import TrainingRun, simclr
from taster.models import small_cnn
from taster.offline import NetTraining, accuracy
from taster.selfsup import PretrainingSettings, ViewSettings
from taster.selfsup.linear_probe import LinearProbe, fit_linear_probe
from taster.stats.perturbation_measures import measure_perturbations
from taster.utils.seeds import derived_seed, generator

CLASSES, PROBE_C, TRUSTED, OWN, WRONG = 10, 0.1, 300, 100, 0.6
NETS = PretrainingSettings(pretraining_batch=128)
VIEWS = ViewSettings(crop_area=0.8, mirror=False)


def made(name: str, epsilon: float) -> NoiseAttack:
    """An attack by its row."""
    budget = PerturbationSettings(epsilon=epsilon)
    size: dict[str, Any] = {"train_steps": 6, "step_size": epsilon / 8}
    if name == "random_class_noise":
        return random_class_noise(perturbation=budget)
    if name == "error_minimising_noise":
        settings = AlternatingSettings(pgd_steps=5, step_size=epsilon / 5, max_rounds=20)
        return error_minimising_noise(perturbation=budget, alternating=settings)
    if name == "error_minimising_noise, class-wise":
        settings = AlternatingSettings(pgd_steps=1, max_rounds=20)
        return error_minimising_noise(perturbation=budget, class_wise=True, alternating=settings)
    if name == "contrastive_poison":
        turns = ContrastiveSettings(rounds=20, pgd_steps=3, **size)
        return contrastive_poison(perturbation=budget, contrastive=turns, pretraining=NETS, views=VIEWS)
    if name == "contrastive_poison, class-wise":
        turns = ContrastiveSettings(rounds=40, pgd_steps=1, **size)
        return contrastive_poison(
            perturbation=budget, class_wise=True, contrastive=turns, pretraining=NETS, views=VIEWS
        )
    if name == "transferable_noise":
        turns = ContrastiveSettings(rounds=20, pgd_steps=2, **size)
        return transferable_noise(perturbation=budget, contrastive=turns, csd_steps=3, pretraining=NETS, views=VIEWS)
    turns = ContrastiveSettings(rounds=1, train_steps=1, pgd_steps=0)  # "transferable_noise, CSD alone"
    return transferable_noise(perturbation=budget, contrastive=turns, csd_steps=60, views=VIEWS)


NOISES = [
    "error_minimising_noise, class-wise",
    "transferable_noise",
    "contrastive_poison",
    "random_class_noise",
    "error_minimising_noise",
    "transferable_noise, CSD alone",
    "contrastive_poison, class-wise",
]


@dataclass(frozen=True)
class Setting:
    """What is trained on, and how.

    Attributes:
        train, trusted, own, test: sets that share no image; `own` is the attacker's.
        victim, attacker: trainings with labels, with different first weights.
        epochs: of the training without labels.
        epsilon: of the noise.
        seed: of everything.
    """

    train: Batch
    trusted: Batch
    own: Batch
    test: Batch
    victim: NetTraining
    attacker: NetTraining
    epochs: int
    epsilon: float
    seed: int

    def supervised(self, samples: Batch) -> float:
        """Test accuracy of a net trained with labels, in %."""
        return accuracy(self.victim(samples, seed=self.seed), self.test)

    def features(self, samples: Batch, epochs: int | None = None) -> View:
        """A net trained without labels."""
        settings = PretrainingSettings(
            pretraining_epochs=self.epochs if epochs is None else epochs, pretraining_batch=128
        )
        run = TrainingRun(samples, self.trusted, self.victim, CLASSES, self.seed)
        found, _ = simclr(pretraining=settings, views=VIEWS).train(run)
        assert isinstance(found, LinearProbe)
        return found.view

    def probed(self, view: View, samples: Batch) -> float:
        """Test accuracy of a linear classifier on features, in %."""
        return accuracy(fit_linear_probe(view, samples, CLASSES, c=PROBE_C), self.test)


def make_setting(count: int, epochs: int, epsilon: float, seed: int) -> Setting:
    def make_net(first: int) -> nn.Module:
        torch.manual_seed(derived_seed(seed, f"weights {first}"))
        return small_cnn((1, 8, 8), CLASSES, width=8)

    images = load_images("digits").train
    order = torch.randperm(len(images.x), generator=generator(seed, "images"))
    drawn = as_batch(images.select(order))
    plain = TrainingSettings(epochs=15)
    victim, attacker = (NetTraining(lambda i, k=k: make_net(1000 * k + i), plain, seed=k) for k in (0, 1))  # type: ignore[misc]
    ends = [0, count, count + TRUSTED, count + TRUSTED + OWN, len(order)]
    train, trusted, own, test = (drawn.select(slice(*part)) for part in pairwise(ends))
    return Setting(train, trusted, own, test, victim, attacker, epochs, epsilon, seed)


def clean_row(setting: Setting) -> dict[str, Any]:
    """The controls."""
    samples = setting.train
    draws = generator(setting.seed, "wrong labels")
    wrong = torch.rand(len(samples), generator=draws) < WRONG
    shift = torch.randint(1, CLASSES, (len(samples),), generator=draws)
    flipped = Batch(samples.x, torch.where(wrong, (samples.y + shift) % CLASSES, samples.y))
    trained, random = setting.features(samples), setting.features(samples, 0)
    return {
        "supervised": setting.supervised(samples),
        "probe": setting.probed(trained, samples),
        "trusted": setting.probed(trained, setting.trusted),
        "random features, probe": setting.probed(random, samples),
        "random features, trusted": setting.probed(random, setting.trusted),
        "wrong labels, supervised": setting.supervised(flipped),
        "wrong labels, probe": setting.probed(trained, flipped),
        "wrong labels, random features": setting.probed(random, flipped),
    }


def noise_row(setting: Setting, name: str) -> dict[str, Any]:
    """One noise."""
    samples, began = setting.train, time.process_time()
    knowledge = DatasetKnowledge(CLASSES, setting.own, (setting.attacker,), generator(setting.seed, "attack"))
    torch.manual_seed(derived_seed(setting.seed, "attack"))
    noise = made(name, setting.epsilon).noise(samples, knowledge)
    seconds = time.process_time() - began
    protected = noise.samples
    view = setting.features(protected)
    row = {
        "supervised": setting.supervised(protected),
        "probe": setting.probed(view, protected),
        "trusted": setting.probed(view, setting.trusted),
        "seconds": round(seconds, 1),
    }
    if not noise.class_wise:
        values = noise.values
        for swap in (within_classes, between_classes):
            noise.set(swap(values, samples.y, generator(setting.seed, "swap")))
            row[swap.__name__.partition("_")[0]] = setting.supervised(noise.samples)
    found = measure_perturbations(samples.x.numpy(), protected.x.numpy(), samples.y.numpy(), seed=setting.seed)
    return {**row, "linear": found.linear, "two-layer": found.two_layer, "csd": found.csd, "psnr": found.psnr}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--epsilon", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noises", nargs="+", default=["clean", *NOISES], choices=["clean", *NOISES])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for seed in options.seeds:
        setting = make_setting(options.images, options.epochs, options.epsilon, seed)
        for name in options.noises:
            measured = clean_row(setting) if name == "clean" else noise_row(setting, name)
            rows.append({"noise": name, "seed": seed, **measured})
            print(json.dumps(rows[-1]), flush=True)
            if options.out is not None:
                settings = {
                    key: value for key, value in vars(options).items() if key in ("images", "epochs", "epsilon")
                }
                versions = {"python": platform.python_version(), "torch": torch.__version__}
                options.out.write_text(json.dumps({**settings, **versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
