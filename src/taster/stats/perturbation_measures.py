"""How large perturbations are, and how well they tell the classes apart by themselves."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taster.errors import SettingError

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

_WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
_MOST = 1000
"""Samples that separability is measured on, drawn at random: a linear model on more takes minutes."""


@dataclass(frozen=True)
class PerturbationMeasures:
    """Measures of the perturbations of a set; see the functions of this module.

    Attributes:
        largest: change of a value, in the units of the data.
        psnr: mean over samples, in dB.
        ssim: mean over samples; None where they are no images.
        linear: separability by a linear model, in %.
        two_layer: separability by a net with one hidden layer, in %.
        csd: class-wise separability discriminant; NaN where the centres of two classes are one.
    """

    largest: float
    psnr: float
    ssim: float | None
    linear: float
    two_layer: float
    csd: float


def measure_perturbations(
    clean: np.ndarray, perturbed: np.ndarray, labels: np.ndarray, *, value_range: float = 1.0, seed: int = 0
) -> PerturbationMeasures:
    """All measures of samples that were perturbed.

    Args:
        clean: [n, ...]; images [n, c, h, w].
        perturbed: likewise.
        labels: int [n], of at least two classes.
        value_range: the largest value of the data less the smallest.
        seed: of the samples that separability is measured on, and of the net.

    Raises:
        SettingError: for other shapes, samples that are all as they were, and labels of one class.
    """
    if clean.shape != perturbed.shape or labels.shape != clean.shape[:1]:
        raise SettingError(
            f"got samples {list(clean.shape)} and {list(perturbed.shape)} with labels {list(labels.shape)}, wanted two "
            "of one shape and a label for each"
        )
    change = perturbed.astype(np.float64) - clean.astype(np.float64)
    if not change.any():
        raise SettingError("got samples that are all as they were, wanted perturbed ones")
    images = clean.ndim == 4 and min(clean.shape[2:]) >= _WINDOW
    chosen = np.random.default_rng(seed).permutation(len(change))[:_MOST]
    rows, y = change[chosen].reshape(len(chosen), -1), labels[chosen]
    return PerturbationMeasures(
        float(np.abs(change).max()),
        float(psnr(clean, perturbed, value_range).mean()),
        float(ssim(clean, perturbed, value_range).mean()) if images else None,
        linear_separability(rows, y),
        two_layer_separability(rows, y, seed=seed),
        class_separability_discriminant(rows, y),
    )


def psnr(clean: np.ndarray, perturbed: np.ndarray, value_range: float = 1.0) -> np.ndarray:
    """Peak signal-to-noise ratio of each sample, 10 log₁₀(range² / mean squared change), [n], in dB; infinite for one
    that is as it was.

    Args:
        clean, perturbed: [n, ...].
        value_range: the largest value of the data less the smallest.
    """
    change = perturbed.astype(np.float64) - clean.astype(np.float64)
    squares = (change**2).reshape(len(change), -1).mean(1)
    with np.errstate(divide="ignore"):
        found: np.ndarray = 10 * np.log10(value_range**2 / squares)
    return found


def ssim(clean: np.ndarray, perturbed: np.ndarray, value_range: float = 1.0) -> np.ndarray:
    """Structural similarity of each image, the mean over places and channels, [n], at most 1.

        (2 μₓ μ_y + c₁)(2 σ_xy + c₂) / ((μₓ² + μ_y² + c₁)(σₓ² + σ_y² + c₂))

    Means and (co)variances are weighted by a Gaussian window of 11 x 11 pixels with a standard deviation of 1.5;
    windows lie within the image. c₁ = (0.01 L)², c₂ = (0.03 L)² with the range L.

    Args:
        clean, perturbed: images [n, c, h, w] of at least 11 x 11 pixels.
        value_range: L, the largest value of the data less the smallest.

    Raises:
        SettingError: for other shapes.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004, Eq. 13.
    """
    if clean.ndim != 4 or min(clean.shape[2:]) < _WINDOW or clean.shape != perturbed.shape:
        raise SettingError(
            f"got samples {list(clean.shape)} and {list(perturbed.shape)}, wanted images [n, c, h, w] of at least "
            f"{_WINDOW} x {_WINDOW} pixels, two of one shape"
        )
    x, y = clean.astype(np.float64), perturbed.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * value_range) ** 2, (_K2 * value_range) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    found: np.ndarray = similar / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return np.asarray(found.mean((1, 2, 3)))


def _windowed(x: np.ndarray) -> np.ndarray:
    """Weighted means over the windows that lie within an image."""
    from scipy.ndimage import correlate1d  # slow to import, and only needed here

    places = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(places**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    edge = _WINDOW // 2
    for axis in (2, 3):
        x = correlate1d(x, weights, axis=axis)
    return np.asarray(x[:, :, edge : x.shape[2] - edge, edge : x.shape[3] - edge])


def linear_separability(changes: np.ndarray, labels: np.ndarray) -> float:
    """How well a linear model tells the classes of perturbations, on those that it was trained on, in %.

    Perturbations are divided by their greatest value; the model is logistic regression, all but unregularised.

    Args:
        changes: perturbed less clean samples, [n, d], not all 0.
        labels: int [n], of at least two classes.

    Raises:
        SettingError: for labels of one class.

    Source: Yu et al. 2022, who train linear models on perturbations.
    """
    from sklearn.linear_model import LogisticRegression

    return _train_accuracy(LogisticRegression(C=1e3, max_iter=200), changes, labels)


def two_layer_separability(changes: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> float:
    """As `linear_separability`, by a net with one hidden layer of 32 units.

    Args:
        changes, labels: likewise.
        seed: of the net.

    Raises:
        SettingError: for labels of one class.

    Source: Yu et al. 2022, who train two-layer nets on perturbations.
    """
    from sklearn.neural_network import MLPClassifier

    return _train_accuracy(MLPClassifier((32,), max_iter=60, random_state=seed), changes, labels)


def _train_accuracy(model: LogisticRegression | MLPClassifier, changes: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.exceptions import ConvergenceWarning

    _check_classes(labels)
    rows = changes / np.abs(changes).max()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are the measure's definition
        model.fit(rows, labels)
    return 100 * float(model.score(rows, labels))


def class_separability_discriminant(changes: np.ndarray, labels: np.ndarray) -> float:
    """How far the classes of perturbations spread, beside how far they lie from one another; less is better separated:
    the mean over pairs of classes of (σ_a + σ_b) / ‖c_a − c_b‖, with a class's mean c and the mean distance σ from it.

    The Davies-Bouldin index takes the worst pair of each class in place of the mean over pairs.

    Args:
        changes: perturbed less clean samples, [n, d].
        labels: int [n], of at least two classes.

    Returns:
        NaN where two classes have one mean.

    Raises:
        SettingError: for labels of one class.

    Source: Ren et al. 2023 ("Transferable unlearnable examples"), by the code that they published, which takes the
        mean over pairs; Davies and Bouldin 1979.
    """
    found = _Classes.of(changes, labels)
    if not found.apart[np.triu_indices(len(found.apart), 1)].all():
        return float("nan")
    return float(found.ratios().sum() / found.pairs)


def class_separability_gradient(changes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The gradient of `class_separability_discriminant` in the perturbations, in closed form, [n, d].

        ∂/∂δᵢ = 2 / (K (K − 1) n_a) Σ_{b ≠ a} (uᵢ − ū_a) / D_ab − (σ_a + σ_b) (c_a − c_b) / D_ab³

    for δᵢ of class a, with D_ab = ‖c_a − c_b‖, the unit vector uᵢ from c_a to δᵢ, 0 where they are one, and its mean ū
    over the class.

    Args:
        changes, labels: see `class_separability_discriminant`.

    Raises:
        SettingError: for labels of one class, and classes with one mean.
    """
    found = _Classes.of(changes, labels)
    if not found.apart[np.triu_indices(len(found.apart), 1)].all():
        raise SettingError("got two classes of perturbations with one mean, wanted means that differ: begin at random")
    np.fill_diagonal(found.apart, np.inf)
    gradient = np.empty_like(changes, dtype=np.float64)
    nearness = (1 / found.apart).sum(1)
    pull = (found.spreads[:, None] + found.spreads[None, :]) / found.apart**3
    away = pull.sum(1, keepdims=True) * found.centres - pull @ found.centres
    for place, name in enumerate(found.names):
        rows = labels == name
        off = changes[rows] - found.centres[place]
        lengths = np.linalg.norm(off, axis=1, keepdims=True)
        units = np.divide(off, lengths, out=np.zeros_like(off, dtype=np.float64), where=lengths > 0)
        gradient[rows] = ((units - units.mean(0)) * nearness[place] - away[place]) / (rows.sum() * found.pairs)
    return gradient


@dataclass(frozen=True)
class _Classes:
    """Classes of perturbations.

    Attributes:
        names: of the K classes, in order.
        centres: their means, [K, d].
        spreads: mean distance from the mean, [K].
        apart: distances of the means, [K, K].
    """

    names: np.ndarray
    centres: np.ndarray
    spreads: np.ndarray
    apart: np.ndarray

    @classmethod
    def of(cls, changes: np.ndarray, labels: np.ndarray) -> _Classes:
        names = _check_classes(labels)
        centres = np.stack([changes[labels == name].mean(0, dtype=np.float64) for name in names])
        spreads = [
            np.linalg.norm(changes[labels == name] - centre, axis=1).mean()
            for name, centre in zip(names, centres, strict=True)
        ]
        apart = np.linalg.norm(centres[:, None] - centres[None, :], axis=2)
        return cls(names, centres, np.array(spreads), apart)

    @property
    def pairs(self) -> int:
        return len(self.names) * (len(self.names) - 1) // 2

    def ratios(self) -> np.ndarray:
        """(σ_a + σ_b) / ‖c_a − c_b‖ of each pair of classes, [pairs]."""
        first, second = np.triu_indices(len(self.names), 1)
        found: np.ndarray = (self.spreads[first] + self.spreads[second]) / self.apart[first, second]
        return found


def _check_classes(labels: np.ndarray) -> np.ndarray:
    """The classes; raises SettingError for one alone."""
    names = np.unique(labels)
    if len(names) < 2:
        raise SettingError(f"got perturbations of {len(names)} class, wanted at least two")
    return names
