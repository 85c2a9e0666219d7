"""Targeted attacks that ART has too: the same net, bases and target, the same number of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from taster import Batch
from taster.attacks import (
    DatasetKnowledge,
    DatasetPoisonSettings,
    MatchingSettings,
    PolytopeSettings,
    TargetSettings,
    bullseye_polytope,
    feature_collision,
    gradient_matching,
)
from taster.attacks.dataset_attack import DatasetBudget
from taster.attacks.targeted.bases import draw_bases
from taster.attacks.targeted.targets import draw_targets
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.offline import NetTraining
from toolkits.installed import version_of
from toolkits.small_net import FEATURES, view_of
from toolkits.timing import Way, compare, with_figures

STEPS, EPSILON, SIMILARITY = 100, 0.2, 0.25
MATCHING_STEPS = 250
"""Both toolkits' own default, to which ART's schedule of rates belongs."""
TARGET, WANTED, POISONS, MATCHING_POISONS = 1, 7, 3, 12


@dataclass(frozen=True)
class Trained(NetTraining):
    """A training that has been made: what an attack would train is given to it, so that its time is not measured."""

    view: View | None = None

    def __call__(self, samples: Batch, /, **settings: Any) -> View:  # noqa: ARG002 (as a training is called)
        """The net."""
        assert self.view is not None
        return self.view


@dataclass(frozen=True)
class Scene:
    """What both toolkits are given.

    Attributes:
        net: trained on the clean set.
        clean: the set.
        own: samples of the attacker's.
        seed: of all draws.
    """

    net: nn.Sequential
    clean: Batch
    own: Batch
    seed: int

    def knowledge(self) -> DatasetKnowledge:
        """Of taster's attacks."""
        settings = TrainingSettings(epochs=1, batch_size=64, learning_rate=0.01)
        fit = Trained(lambda _: self.net, settings, view=view_of(self.net))
        return DatasetKnowledge(10, self.own, (fit,), torch.Generator().manual_seed(self.seed))

    def places(self, poisons: int) -> Tensor:
        """The bases' [poisons]."""
        budget = DatasetBudget(poisons / len(self.clean))
        return draw_bases(self.clean, self.targets(), budget, self.knowledge())

    def targets(self) -> Any:
        """The one target, with the class that is wanted for it."""
        return draw_targets(TARGETED, self.knowledge())

    def features(self, images: Any) -> Tensor:
        """[n, 64]."""
        with torch.no_grad():
            found: Tensor = self.net[:-1](torch.as_tensor(images).reshape(-1, 1, 8, 8))
        return found

    def gradient(self, images: Any, label: int) -> Tensor:
        """Of the loss of images under one label, by all parameters [p]."""
        x = torch.as_tensor(images).reshape(-1, 1, 8, 8)
        loss = cross_entropy(self.net(x), torch.full((len(x),), label))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.net.parameters()))])


TARGETED = TargetSettings(target_class=TARGET, wanted_class=WANTED)


def measure_targeted(scene: Scene, rounds: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Feature collision, bullseye polytope and gradient matching."""
    return {
        (name, way): figures
        for name, measured in {
            "feature collision": _collision(scene, rounds),
            "bullseye polytope": _bullseye(scene, rounds),
            "gradient matching": _matching(scene, rounds),
        }.items()
        for way, figures in measured.items()
    }


def _ways(scene: Scene, attack: Any, places: Tensor) -> dict[str, Way]:
    """Taster's attack, and none."""
    return {
        "taster": lambda: lambda: attack(scene.clean, scene.knowledge()).samples.x[places],
        "none (the bases)": lambda: lambda: scene.clean.x[places],
    }


def _changed(bases: Tensor) -> Callable[[Any], float]:
    return lambda poisons: float((torch.as_tensor(poisons).reshape(bases.shape) - bases).flatten(1).norm(dim=1).mean())


def _collision(scene: Scene, rounds: int) -> dict[str, dict[str, Any]]:
    places, target = scene.places(POISONS), scene.targets().x
    bases = scene.clean.x[places]
    attack = feature_collision(
        target=TARGETED,
        poison=DatasetPoisonSettings(poison_fraction=POISONS / len(scene.clean)),
        similarity=SIMILARITY,
        steps=STEPS,
        tolerance=0.0,
    )
    ways = _ways(scene, attack, places)
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        for rate in (0.1, 1.0):
            ways[f"ART, learning rate {rate:g}"] = of_art.feature_collision(
                scene.net, bases, target, FEATURES, rate, SIMILARITY, STEPS
            )
    wanted = scene.features(target)

    def to_target(poisons: Any) -> float:
        return float((scene.features(poisons) - wanted).norm(dim=1).mean() / wanted.norm())

    return with_figures(compare(ways, rounds), {"to_target": to_target, "changed": _changed(bases)})


def _bullseye(scene: Scene, rounds: int) -> dict[str, dict[str, Any]]:
    places, target = scene.places(POISONS), scene.targets().x
    bases, share = scene.clean.x[places], POISONS / len(scene.clean)
    attack = bullseye_polytope(
        target=TARGETED,
        polytope=PolytopeSettings(poison_fraction=share, epsilon=EPSILON, steps=STEPS, step_size=0.01, tolerance=0.0),
    )
    ways = _ways(scene, attack, places)
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        for name, end_to_end in (("ART", True), ("ART, endtoend=False", False)):
            ways[name] = of_art.bullseye(
                scene.net, bases, target, WANTED, FEATURES, EPSILON, STEPS, end_to_end=end_to_end
            )
    wanted = scene.features(target)

    def center_to_target(poisons: Any) -> float:
        return float((scene.features(poisons).mean(0) - wanted[0]).norm() / wanted.norm())

    return with_figures(compare(ways, rounds), {"center_to_target": center_to_target, "changed": _changed(bases)})


def _matching(scene: Scene, rounds: int) -> dict[str, dict[str, Any]]:
    places, target = scene.places(MATCHING_POISONS), scene.targets().x
    bases, share = scene.clean.x[places], MATCHING_POISONS / len(scene.clean)
    attack = gradient_matching(
        target=TARGETED,
        matching=MatchingSettings(poison_fraction=share, epsilon=EPSILON, steps=MATCHING_STEPS, restarts=1),
    )
    ways = _ways(scene, attack, places)
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        ways["ART"] = of_art.gradient_matching(scene.net, bases, target, WANTED, EPSILON, MATCHING_STEPS)
    goal = scene.gradient(target, WANTED)

    def mismatch(poisons: Any) -> float:
        return 1 - float(cosine_similarity(goal, scene.gradient(poisons, WANTED), dim=0))

    def most_changed(poisons: Any) -> float:
        return float((torch.as_tensor(poisons).reshape(bases.shape) - bases).abs().max())

    return with_figures(compare(ways, rounds), {"mismatch": mismatch, "most_changed": most_changed})
