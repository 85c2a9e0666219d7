"""Attacks on training sets and screens of them that ART has too: handwritten digits, one small net, the same steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.attacks import (
    DatasetKnowledge,
    DatasetPoisonSettings,
    PolytopeSettings,
    TargetSettings,
    bullseye_polytope,
    feature_collision,
    svm_poisoning,
)
from taster.attacks.dataset_attack import DatasetBudget
from taster.attacks.targeted.bases import draw_bases
from taster.attacks.targeted.targets import draw_targets
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.offline import EstimatorTraining, NetTraining
from taster.scores.activation_clustering import activation_clusters
from taster.scores.spectral_signature import spectral_signatures
from toolkits.installed import version_of
from toolkits.timing import compare

SEEDS = (0, 1, 2)
FEATURES = "5"
"""The layer of `make_net` whose output goes into the last one."""
STEPS, EPSILON, SIMILARITY = 100, 0.2, 0.25
TARGET, WANTED, POISONS = 1, 7, 3
BACKDOORED, BACKDOOR_LABEL = 40, 0
SVM_STEPS = 20
PAIR = (4, 9)
"""Classes of the support vector machine, attacked and attacking."""


@dataclass(frozen=True)
class Trained(NetTraining):
    """A training that has been made: what an attack would train is given to it, so that its time is not measured."""

    view: View | None = None

    def __call__(self, samples: Batch, /, **settings: Any) -> View:  # noqa: ARG002 (as a training is called)
        """The net."""
        assert self.view is not None
        return self.view


def make_net(seed: int) -> nn.Sequential:
    """For images of 8 by 8."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each attack or screen, toolkit and figure: means and deviations over seeds, and the median time."""
    by_seed = [_of_seed(seed, rounds) for seed in SEEDS]
    rows = []
    for key in by_seed[0]:
        own = [found[key] for found in by_seed]
        row: dict[str, Any] = {"what": key[0], "toolkit": key[1], "seeds": len(own)}
        errors = [one["error"] for one in own if "error" in one]
        if errors:
            row["error"] = errors[0]
        else:
            row["seconds"] = statistics.median(one["seconds"] for one in own)
            for figure in own[0]["figures"]:
                values = [one["figures"][figure] for one in own]
                row[figure] = [statistics.mean(values), statistics.stdev(values)]
        rows.append(row)
    seconds = {row["what"]: row["seconds"] for row in rows if row["toolkit"] == "taster"}
    for row in rows:
        if "seconds" in row:
            row["over_taster"] = row["seconds"] / seconds[row["what"]]
        print(_line(row), flush=True)
    return rows


def _of_seed(seed: int, rounds: int) -> dict[tuple[str, str], dict[str, Any]]:
    x, y = _digits(seed)
    clean, own = Batch(x[:1200], y[:1200]), Batch(x[1200:], y[1200:])
    net = _train(clean, seed)
    view = _view(net)
    found = _targeted(seed, rounds, clean, own, net, view)
    found |= _support_vectors(seed, rounds, clean, own)
    found |= _screens(seed, rounds, clean)
    return found


def _digits(seed: int) -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
    return x[order], torch.from_numpy(labels).long()[order]


def _train(samples: Batch, seed: int) -> nn.Sequential:
    net = make_net(seed)
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    order = torch.Generator().manual_seed(seed)
    for _ in range(8):
        for part in torch.randperm(len(samples), generator=order).split(64):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            cross_entropy(net(samples.x[part]), samples.y[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def _view(net: nn.Module) -> View:
    return Learner(net, torch.optim.SGD(net.parameters(), lr=0.01), cross_entropy).view()


def _targeted(
    seed: int, rounds: int, clean: Batch, own: Batch, net: nn.Sequential, view: View
) -> dict[tuple[str, str], dict[str, Any]]:
    """Feature collision and bullseye polytope: the same bases and target, the same number of steps."""

    def knowledge() -> DatasetKnowledge:
        fit = Trained(lambda _: net, TrainingSettings(epochs=1, batch_size=64, learning_rate=0.01), view=view)
        return DatasetKnowledge(10, own, (fit,), torch.Generator().manual_seed(seed))

    wanted = TargetSettings(target_class=TARGET, wanted_class=WANTED)
    share = POISONS / len(clean)
    targets = draw_targets(wanted, knowledge())
    places = draw_bases(clean, targets, DatasetBudget(share), knowledge())
    bases, target = clean.x[places], targets.x

    def features(images: Any) -> Tensor:
        with torch.no_grad():
            found: Tensor = net[:-1](torch.as_tensor(images).reshape(-1, 1, 8, 8))
        return found

    def to_target(poisons: Any) -> float:
        return float((features(poisons) - features(target)).norm(dim=1).mean() / features(target).norm())

    def center_to_target(poisons: Any) -> float:
        return float((features(poisons).mean(0) - features(target)[0]).norm() / features(target).norm())

    def changed(poisons: Any) -> float:
        return float((torch.as_tensor(poisons).reshape(bases.shape) - bases).flatten(1).norm(dim=1).mean())

    collision = feature_collision(
        target=wanted,
        poison=DatasetPoisonSettings(poison_fraction=share),
        similarity=SIMILARITY,
        steps=STEPS,
        tolerance=0.0,
    )
    bullseye = bullseye_polytope(
        target=wanted,
        polytope=PolytopeSettings(poison_fraction=share, epsilon=EPSILON, steps=STEPS, step_size=0.01, tolerance=0.0),
    )
    collide: dict[str, Callable[[], Callable[[], Any]]] = {
        "taster": lambda: lambda: collision(clean, knowledge()).samples.x[places],
        "none (the bases)": lambda: lambda: bases,
    }
    surround: dict[str, Callable[[], Callable[[], Any]]] = {
        "taster": lambda: lambda: bullseye(clean, knowledge()).samples.x[places],
        "none (the bases)": lambda: lambda: bases,
    }
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        for rate in (0.1, 1.0):
            collide[f"ART, learning rate {rate:g}"] = of_art.feature_collision(
                net, bases, target, FEATURES, rate, SIMILARITY, STEPS
            )
        surround["ART"] = of_art.bullseye(net, bases, target, WANTED, FEATURES, EPSILON, STEPS, end_to_end=True)
        surround["ART, endtoend=False"] = of_art.bullseye(
            net, bases, target, WANTED, FEATURES, EPSILON, STEPS, end_to_end=False
        )
    found = {}
    for way, figures in compare(collide, rounds).items():
        found["feature collision", way] = _with(figures, {"to_target": to_target, "changed": changed})
    for way, figures in compare(surround, rounds).items():
        found["bullseye polytope", way] = _with(figures, {"center_to_target": center_to_target, "changed": changed})
    return found


def _support_vectors(seed: int, rounds: int, clean: Batch, own: Batch) -> dict[tuple[str, str], dict[str, Any]]:
    """One point that is inserted into the training set of a linear support vector machine, C = 1."""
    train, validation = _pair(clean, 60), _pair(own, 40)

    def knowledge() -> DatasetKnowledge:
        return DatasetKnowledge(2, validation, _machine(), torch.Generator().manual_seed(seed))

    def point(iterations: int) -> Tensor:
        attack = svm_poisoning(
            poison=DatasetPoisonSettings(poison_fraction=1 / len(train)),
            attacked_class=0,
            attacking_class=1,
            iterations=iterations,
        )
        inserted: Tensor = attack(train, knowledge()).samples.x[len(train) :]
        return inserted

    def hinge(inserted: Any) -> float:
        x = np.concatenate([train.x.flatten(1).numpy(), np.asarray(inserted).reshape(1, -1)])
        machine = SVC(kernel="linear", C=1.0).fit(x, np.append(train.y.numpy(), 1))
        margin = (2 * validation.y.numpy() - 1) * machine.decision_function(validation.x.flatten(1).numpy())
        return float(np.maximum(0, 1 - margin).mean())

    ways: dict[str, Callable[[], Callable[[], Any]]] = {
        "taster": lambda: lambda: point(SVM_STEPS),
        "none (the start)": lambda: lambda: point(0),
    }
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        ways["ART"] = of_art.svm_poisoning(train, validation, point(0), SVM_STEPS)
    return {
        ("SVM poisoning, one point", way): _with(figures, {"validation_hinge_loss": hinge})
        for way, figures in compare(ways, rounds).items()
    }


def _machine() -> tuple[EstimatorTraining, ...]:
    return (EstimatorTraining(lambda: SVC(kernel="linear", C=1.0), 2),)


def _pair(samples: Batch, count: int) -> Batch:
    """The first samples of the pair of classes, as classes 0 and 1."""
    places = torch.isin(samples.y, torch.tensor(PAIR)).nonzero().flatten()[:count]
    return Batch(samples.x[places], (samples.y[places] == PAIR[1]).long())


def _screens(seed: int, rounds: int, clean: Batch) -> dict[tuple[str, str], dict[str, Any]]:
    """A patch in the corner of samples of other classes under one label: who is told apart, as AUC over all samples."""
    x, y = clean.x.clone(), clean.y.clone()
    others = (y != BACKDOOR_LABEL).nonzero().flatten()
    places = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:BACKDOORED]]
    x[places, :, 6:, 6:] = 1.0
    y[places] = BACKDOOR_LABEL
    poisoned = np.isin(np.arange(len(y)), places.numpy())
    net = _train(Batch(x, y), seed)
    view = _view(net)

    def features() -> Tensor:
        with torch.no_grad():
            found: Tensor = view.features(x)[0]
        return found

    def auc(scores: Any) -> float:
        return float(roc_auc_score(poisoned, np.asarray(scores)))

    def auc_within(scores: Any) -> float:
        own = y.numpy() == BACKDOOR_LABEL
        return float(roc_auc_score(poisoned[own], np.asarray(scores)[own]))

    spectral: dict[str, Callable[[], Callable[[], Any]]] = {
        "taster": lambda: lambda: spectral_signatures(features(), y).numpy()
    }
    clusters: dict[str, Callable[[], Callable[[], Any]]] = {
        "taster": lambda: lambda: activation_clusters(features(), y).numpy()
    }
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        spectral["ART, its layer"] = of_art.spectral(net, x, y, None)
        spectral["ART, the same features"] = of_art.spectral(net, x, y, FEATURES)
        clusters["ART"] = of_art.activation(net, x, y)
    found = {}
    for name, ways in {"spectral signatures": spectral, "activation clustering": clusters}.items():
        for way, figures in compare(ways, rounds).items():
            found[name, way] = _with(figures, {"auc": auc, "auc_within_label": auc_within})
    return found


def _with(figures: dict[str, Any], what: dict[str, Callable[[Any], float]]) -> dict[str, Any]:
    """The time of a way, and figures of its result."""
    if "error" in figures:
        return figures
    return {"seconds": figures["seconds"], "figures": {name: f(figures["result"]) for name, f in what.items()}}


def _line(row: dict[str, Any]) -> str:
    start = f"| {row['what']} | {row['toolkit']} |"
    if "error" in row:
        return f"{start} {row['error']} |"
    figures = ", ".join(f"{k} {v[0]:.3g} ± {v[1]:.2g}" for k, v in row.items() if isinstance(v, list))
    return f"{start} {1000 * row['seconds']:.1f} | {row['over_taster']:.2f} | {figures} |"
