"""Attacks on training sets and screens of them that ART has too: handwritten digits, one small net, the same steps."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from torch import Tensor

from taster import Batch
from taster.attacks import (
    DatasetKnowledge,
    DatasetPoisonSettings,
    svm_poisoning,
)
from taster.offline import EstimatorTraining
from taster.scores.activation_clustering import activation_clusters
from taster.scores.spectral_signature import spectral_signatures
from toolkits.installed import version_of
from toolkits.small_net import FEATURES, train_net, view_of
from toolkits.targeted import Scene, measure_targeted
from toolkits.timing import Way, compare, with_figures

SEEDS = (0, 1, 2)
BACKDOORED, BACKDOOR_LABEL = 40, 0
SVM_STEPS = 20
PAIR = (4, 9)
"""Classes of the support vector machine, attacked and attacking."""


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
    found = measure_targeted(Scene(train_net(clean, seed), clean, own, seed), rounds)
    found |= _support_vectors(seed, rounds, clean, own)
    found |= _screens(seed, rounds, clean)
    return found


def _digits(seed: int) -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
    return x[order], torch.from_numpy(labels).long()[order]


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

    ways: dict[str, Way] = {
        "taster": lambda: lambda: point(SVM_STEPS),
        "none (the start)": lambda: lambda: point(0),
    }
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        ways["ART"] = of_art.svm_poisoning(train, validation, point(0), SVM_STEPS)
    measured = with_figures(compare(ways, rounds), {"validation_hinge_loss": hinge})
    return {("SVM poisoning, one point", way): figures for way, figures in measured.items()}


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
    net = train_net(Batch(x, y), seed)
    view = view_of(net)

    def features() -> Tensor:
        with torch.no_grad():
            found: Tensor = view.features(x)[0]
        return found

    def auc(scores: Any) -> float:
        return float(roc_auc_score(poisoned, np.asarray(scores)))

    def auc_within(scores: Any) -> float:
        own = y.numpy() == BACKDOOR_LABEL
        return float(roc_auc_score(poisoned[own], np.asarray(scores)[own]))

    spectral: dict[str, Way] = {"taster": lambda: lambda: spectral_signatures(features(), y).numpy()}
    clusters: dict[str, Way] = {"taster": lambda: lambda: activation_clusters(features(), y).numpy()}
    if version_of("adversarial-robustness-toolbox"):
        from toolkits import of_art

        spectral["ART, its layer"] = of_art.spectral(net, x, y, None)
        spectral["ART, the same features"] = of_art.spectral(net, x, y, FEATURES)
        clusters["ART"] = of_art.activation(net, x, y)
    found = {}
    for name, ways in {"spectral signatures": spectral, "activation clustering": clusters}.items():
        for way, figures in with_figures(compare(ways, rounds), {"auc": auc, "auc_within_label": auc_within}).items():
            found[name, way] = figures
    return found


def _line(row: dict[str, Any]) -> str:
    start = f"| {row['what']} | {row['toolkit']} |"
    if "error" in row:
        return f"{start} {row['error']} |"
    figures = ", ".join(f"{k} {v[0]:.3g} ± {v[1]:.2g}" for k, v in row.items() if isinstance(v, list))
    return f"{start} {1000 * row['seconds']:.1f} | {row['over_taster']:.2f} | {figures} |"
