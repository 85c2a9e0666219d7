"""Trainings of a classifier, data with wrong labels, and runs of a defence, for tests of defences of training sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, View
from taster.core.fitting import Classifier
from taster.data import load_images
from taster.defences import DatasetDefence, RobustTraining, TrainingRun
from taster.models.mlp import mlp


class Logistic:
    """An estimator: no features, log-probabilities (or probabilities) as outputs, -100 for a class it never saw."""

    def __init__(self, model: LogisticRegression, classes: int, *, probabilities: bool = False) -> None:
        self.model, self.classes, self.probabilities = model, classes, probabilities

    def outputs(self, x: Tensor) -> Tensor:
        found = torch.full((len(x), self.classes), 0.0 if self.probabilities else -100.0)
        rows = x.flatten(1).numpy()
        read = self.model.predict_proba if self.probabilities else self.model.predict_log_proba
        found[:, self.model.classes_] = torch.from_numpy(read(rows)).float()
        return found


class LogisticFit:
    """Logistic regression by scikit-learn; counts its fits."""

    def __init__(self, classes: int = 10, c: float = 0.1, *, probabilities: bool = False) -> None:
        self.classes, self.c, self.probabilities, self.fits = classes, c, probabilities, 0

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Logistic:
        self.fits += 1
        used = torch.ones(len(samples)) if weights is None else weights
        left = used > 0
        model = LogisticRegression(C=self.c, max_iter=200, random_state=seed % 2**31)
        model.fit(samples.x[left].flatten(1).numpy(), samples.y[left].numpy(), used[left].numpy())
        return Logistic(model, self.classes, probabilities=self.probabilities)


class NetFit:
    """A small fully connected net, trained by gradient descent on all samples at once; it can go on from a net."""

    def __init__(self, classes: int = 10, hidden: int = 16, steps: int = 60, lr: float = 0.5) -> None:
        self.classes, self.hidden, self.steps, self.lr, self.fits, self.resumed = classes, hidden, steps, lr, 0, 0

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> View:
        self.fits += 1
        torch.manual_seed(seed)
        return self._train(mlp((samples.x[0].numel(), 1, 1), self.classes, hidden=[self.hidden]), samples, weights)

    def resume(
        self, classifier: Classifier, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0
    ) -> View:
        assert isinstance(classifier, View)
        self.resumed += 1
        model = mlp((samples.x[0].numel(), 1, 1), self.classes, hidden=[self.hidden])
        model.load_state_dict(classifier.params)
        return self._train(model, samples, weights)

    def _train(self, model: nn.Module, samples: Batch, weights: Tensor | None) -> View:
        model.to(samples.x.device)
        used = torch.ones(len(samples), device=samples.x.device) if weights is None else weights
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9)
        for _ in range(self.steps):
            optimizer.zero_grad()
            losses = cross_entropy(model(samples.x), samples.y, reduction="none")
            ((losses * used).sum() / used.sum()).backward()
            optimizer.step()
        return Learner(model, optimizer, cross_entropy).view()


def digit_sets(train: int = 600, trusted: int = 200, seed: int = 0) -> tuple[Batch, Batch, Batch]:
    """Training, trusted and test samples of scikit-learn's digits, [n, 1, 8, 8]."""
    images = load_images("digits").train
    order = torch.randperm(len(images.x), generator=torch.Generator().manual_seed(seed))
    all_of_them = Batch(images.x[order].float() / 255, images.y[order])
    return (
        all_of_them.select(slice(train)),
        all_of_them.select(slice(train, train + trusted)),
        all_of_them.select(slice(train + trusted, len(order))),
    )


def blobs(n: int, classes: int = 3, seed: int = 0, spread: float = 0.3) -> Batch:
    """Gaussian clouds in the plane, one a class, [n, 2]."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    angle = 2 * torch.pi * y / classes
    return Batch(torch.stack([angle.cos(), angle.sin()], 1) + spread * torch.randn(n, 2, generator=g), y)


def flipped(clean: Batch, share: float, classes: int, seed: int = 0) -> tuple[Batch, Tensor]:
    """A share of the labels replaced by random other ones, and which, bool [n]."""
    g = torch.Generator().manual_seed(seed)
    places = torch.randperm(len(clean), generator=g)[: int(share * len(clean))]
    y = clean.y.clone()
    y[places] = (y[places] + torch.randint(1, classes, (len(places),), generator=g)) % classes
    return replace(clean, y=y), y != clean.y


def run_of(samples: Batch, trusted: Batch, fit: Any, classes: int = 10, seed: int = 0) -> TrainingRun:
    return TrainingRun(samples, trusted, fit, classes, seed)


def defended(defence: DatasetDefence | RobustTraining, run: TrainingRun) -> tuple[Classifier, Tensor | None]:
    """The classifier that comes of a defence, as the harness makes it, and the samples' weights."""
    if isinstance(defence, RobustTraining):
        return defence.train(run)
    weights = defence.weigh(run)
    return run.fit(run.samples, weights=weights, seed=run.seed), weights


def accuracy(classifier: Classifier, test: Batch) -> float:
    """In percent."""
    return 100 * float((classifier.outputs(test.x).argmax(1) == test.y).float().mean())
