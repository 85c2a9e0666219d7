"""Anomaly detectors on a model's features, as scores: how far each sample is from the clean samples of its class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.view import View
from taster.errors import GuardError
from taster.scores.base import PeriodicFit

DetectorName = Literal["kernel_density", "lid", "gaussian", "mixture"]
DETECTORS: tuple[DetectorName, ...] = ("kernel_density", "lid", "gaussian", "mixture")

Detect = Callable[[Tensor, Tensor], Tensor]
"""From features [n, d] and predicted classes [n] to one number per sample, [n]; higher is more anomalous."""


class FeatureAnomalyScore(PeriodicFit[tuple[Tensor, Tensor]]):
    """A `Score` from the features of clean samples that the model classifies correctly.

        kernel_density  −log of the mean of exp(−‖z − zᵢ‖² / σ²) over clean zᵢ of the predicted class
                        (Feinman et al. 2017)
        lid             local intrinsic dimensionality, −(1/K Σ log rᵢ / r_K)⁻¹ over the K nearest clean samples
                        (Ma et al. 2018; Pang et al. 2021, Eq. 19)
        gaussian        −log likelihood under one Gaussian per class with a shared covariance (Lee et al. 2018)
        mixture         the same with a covariance per class (Zheng and Hong 2018)

    The covariances are shrunk towards a multiple of the identity, by the amount that Ledoit and Wolf estimate.

    Args:
        detector: one of the four.
        clean: trusted samples with class indices.
        layer: the layer whose output is used; None takes the input of the last linear layer.
        bandwidth: σ; None takes the median distance between clean samples of a class (Pang et al. use 0.01).
        neighbors: K; with fewer samples, all except the sample itself (Pang et al. use 600 of 10,000).
        refit_every: steps between fits.

    Raises:
        GuardError: for an unknown detector, and (when fitting) if no class has two clean samples that the model
            classifies correctly.
        BatchError, LabelError: see `taster.core.trusted_data.check_trusted_data`.
    """

    def __init__(
        self,
        detector: DetectorName,
        clean: Batch,
        *,
        layer: str | None = None,
        bandwidth: float | None = None,
        neighbors: int = 600,
        refit_every: int = 10,
    ) -> None:
        if detector not in DETECTORS:
            raise GuardError(f"got the detector {detector!r}, wanted one of {', '.join(DETECTORS)}")
        super().__init__("anomaly", clean, refit_every, classes=True)
        self.detector: DetectorName = detector
        self._layer = layer
        self._bandwidth = bandwidth
        self._neighbors = neighbors
        self._detect: tuple[object, Detect] | None = None  # the detector of the features it is for

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], in float32."""
        features = self.fitted(view)
        if self._detect is None or self._detect[0] is not features:
            self._detect = (features, self._make_detector(*features))
        with torch.no_grad():
            rows, logits = view.features(check_tensors(batch, self._name).x, self._layer)
        return self._detect[1](rows.double(), logits.argmax(1)).float()

    def fit(self, view: View) -> None:
        """Fits to the clean samples as the model in the view sees them, until the next fit."""
        self._fitted = self._fit(view)

    def check_model(self, view: View) -> None:
        """Checks that the model takes the trusted samples and has the layer."""
        check_tensors(self._clean, self._name)
        super().check_model(view)
        with torch.no_grad():
            view.features(self._clean.x[:1], self._layer)

    def state_dict(self) -> dict[str, Any]:
        """The clean features last fitted to, and their classes."""
        return {"fitted": None if self._fitted is None else list(self._fitted)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores these features."""
        super().load_state_dict({"fitted": None if state["fitted"] is None else tuple(state["fitted"])})

    def _fit(self, view: View) -> tuple[Tensor, Tensor]:
        """Features and classes of the clean samples that are classified correctly."""
        with torch.no_grad():
            rows, logits = view.features(self._clean.x, self._layer)
        correct = logits.argmax(1) == self._clean.y
        return rows[correct].double(), self._clean.y[correct]

    def _make_detector(self, rows: Tensor, classes: Tensor) -> Detect:
        kept = [label for label, count in Counter(classes.tolist()).items() if count > 1]
        if not kept:
            raise GuardError(
                f"{self.detector}: got no class with two clean samples that the model classifies correctly, wanted "
                "one at least; give it more clean samples"
            )
        groups = {label: rows[classes == label] for label in kept}
        if self.detector == "lid":
            return _local_dimensionality(rows, self._neighbors)
        if self.detector == "kernel_density":
            return _kernel_density(groups, self._bandwidth)
        return _gaussians(groups, tied=self.detector == "gaussian")


def _kernel_density(groups: dict[int, Tensor], bandwidth: float | None) -> Detect:
    if bandwidth is None:
        bandwidth = float(torch.cat([torch.pdist(group) for group in groups.values()]).median())
    width = max(bandwidth, torch.finfo(torch.float64).tiny)

    def score(rows: Tensor, predicted: Tensor) -> Tensor:
        found = torch.full((len(rows),), float("inf"), dtype=rows.dtype, device=rows.device)
        for label, group in groups.items():
            own = predicted == label
            # In logarithms, as a narrow kernel underflows a few widths away.
            logs = -(torch.cdist(rows[own], group) / width).square()
            found[own] = math.log(len(group)) - torch.logsumexp(logs, 1)
        return found

    return score


def _local_dimensionality(clean: Tensor, neighbors: int) -> Detect:
    count = min(neighbors, len(clean) - 1)

    def score(rows: Tensor, predicted: Tensor) -> Tensor:
        nearest = torch.cdist(rows, clean).topk(count, largest=False).values
        nearest = nearest.clamp_min(torch.finfo(rows.dtype).tiny)
        means: Tensor = (nearest / nearest[:, -1:]).log().mean(1)
        return -1 / means.clamp_max(-torch.finfo(rows.dtype).eps)

    return score


def _gaussians(groups: dict[int, Tensor], *, tied: bool) -> Detect:
    means = {label: group.mean(0) for label, group in groups.items()}
    centered = {label: group - means[label] for label, group in groups.items()}
    total = sum(len(group) for group in groups.values())
    if tied:
        shared = _factor(torch.cat(list(centered.values())))
        factors = dict.fromkeys(groups, shared)
    else:
        factors = {label: _factor(rows) for label, rows in centered.items()}

    def score(rows: Tensor, predicted: Tensor) -> Tensor:
        logs = [
            math.log(len(group) / total) + _log_normal(rows - means[label], factors[label])
            for label, group in groups.items()
        ]
        return -torch.logsumexp(torch.stack(logs), 0)

    return score


def _factor(centered: Tensor) -> Tensor:
    """The Cholesky factor of the shrunk covariance."""
    from sklearn.covariance import LedoitWolf  # slow to import, and only needed here

    covariance = LedoitWolf(store_precision=False, assume_centered=True).fit(centered.cpu().numpy()).covariance_
    matrix: Tensor = torch.from_numpy(covariance).to(centered)
    # Features that are always zero leave the covariance singular: the smallest multiple that helps is added.
    least = torch.finfo(matrix.dtype).eps * matrix.diagonal().mean().clamp_min(torch.finfo(matrix.dtype).tiny) * 1e4
    factor: Tensor = torch.linalg.cholesky(matrix + least * torch.eye(len(matrix)).to(matrix))
    return factor


def _log_normal(offsets: Tensor, factor: Tensor) -> Tensor:
    """log N(x; μ, L Lᵀ) from x − μ, [n, d]."""
    white: Tensor = torch.linalg.solve_triangular(factor, offsets.T, upper=False)
    half: Tensor = factor.diagonal().log().sum()
    return -0.5 * (white.square().sum(0) + offsets.shape[1] * math.log(2 * math.pi)) - half
