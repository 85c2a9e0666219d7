"""Anomaly detectors on a model's features, as scores: how unlike the clean samples of its kind each sample is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from taster.core.types import Batch, StepRecord
from taster.core.view import View
from taster.errors import GuardError

DetectorName = Literal["kernel_density", "lid", "gaussian", "mixture"]
DETECTORS: tuple[DetectorName, ...] = ("kernel_density", "lid", "gaussian", "mixture")

Fitted = Callable[[Tensor, Tensor], Tensor]
"""Of features [n, d] and predicted classes [n]: one number a sample, [n], higher where it is more unlike."""


class FeatureAnomalyScore:
    """A `Score` from features of clean samples that the model classifies rightly.

        kernel_density  −log of the mean of exp(−‖z − zᵢ‖² / σ²) over clean zᵢ of the predicted class
                        (Feinman et al. 2017)
        lid             local intrinsic dimensionality, −(1/K Σ log rᵢ / r_K)⁻¹ over the K nearest clean samples
                        (Ma et al. 2018; Pang et al. 2021, Eq. 19)
        gaussian        −log likelihood under one Gaussian a class, the covariance tied (Lee et al. 2018)
        mixture         the same with a covariance a class (Zheng and Hong 2018)

    The Gaussians' covariances are shrunk towards a multiple of the identity by Ledoit and Wolf's estimate of how much.

    Args:
        kind: of the detector.
        clean: samples that nobody else can write to.
        layer: whose output is looked at; None is what goes into the last linear layer.
        bandwidth: σ; None takes the median distance between clean samples of a class (Pang et al. use 0.01).
        neighbours: K; of fewer samples all but one (Pang et al. use 600 of 10,000).
        every: steps between fits, as the model goes on learning.

    Raises:
        GuardError: for an unknown kind, and (when fitting) where fewer than two clean samples of any class are left.
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
        self.detector: DetectorName = detector
        self._clean = clean
        self._layer = layer
        self._bandwidth = bandwidth
        self._neighbours = neighbors
        self._every = refit_every
        self._features: tuple[Tensor, Tensor] | None = None
        self._fitted: Fitted | None = None
        # Before the first step: what was fitted at a moment, so that asking twice fits once.
        self._fresh: tuple[object, Fitted] | None = None

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], in float32."""
        fitted = self._fitted
        if fitted is None:
            if self._fresh is None or self._fresh[0] is not view.moment:
                self._fresh = (view.moment, self._fit(self._look(self._clean, view)))
            fitted = self._fresh[1]
        with torch.no_grad():
            rows, logits = view.features(batch.x, self._layer)
        return fitted(rows.double(), logits.argmax(1)).float()

    def fit(self, view: View) -> None:
        """Fits to the clean samples as the model sees them at the view, until the next fit."""
        self._take(self._look(self._clean, view))

    def observe(self, record: StepRecord, view: View) -> None:
        """Fits anew when it is time."""
        if self._fitted is None or (record.step + 1) % self._every == 0:
            self.fit(view)

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up other clean samples."""
        self._clean = probe
        self._features = self._fitted = self._fresh = None

    def state_dict(self) -> dict[str, Any]:
        """The clean features last fitted to."""
        return {"features": None if self._features is None else list(self._features)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up these features."""
        if state["features"] is None:
            self._features = self._fitted = None
        else:
            rows, classes = state["features"]
            self._take((rows, classes))

    def _take(self, features: tuple[Tensor, Tensor]) -> None:
        self._features, self._fitted = features, self._fit(features)

    def _look(self, batch: Batch, view: View) -> tuple[Tensor, Tensor]:
        """Features and classes of the samples that are classified rightly."""
        with torch.no_grad():
            rows, logits = view.features(batch.x, self._layer)
        right = logits.argmax(1) == batch.y
        return rows[right].double(), batch.y[right]

    def _fit(self, features: tuple[Tensor, Tensor]) -> Fitted:
        rows, classes = features
        kept = [label for label, count in Counter(classes.tolist()).items() if count > 1]
        if not kept:
            raise GuardError(
                f"{self.detector}: got no class with two clean samples that the model classifies rightly, wanted some; "
                "give it more clean samples"
            )
        groups = {label: rows[classes == label] for label in kept}
        if self.detector == "lid":
            return _dimensionality(rows, self._neighbours)
        if self.detector == "kernel_density":
            return _kernel_density(groups, self._bandwidth)
        return _gaussians(groups, tied=self.detector == "gaussian")


def _kernel_density(groups: dict[int, Tensor], bandwidth: float | None) -> Fitted:
    if bandwidth is None:
        bandwidth = float(torch.cat([torch.pdist(group) for group in groups.values()]).median())
    width = max(bandwidth, torch.finfo(torch.float64).tiny)

    def score(rows: Tensor, predicted: Tensor) -> Tensor:
        found = torch.full((len(rows),), float("inf"), dtype=rows.dtype, device=rows.device)
        for label, group in groups.items():
            own = predicted == label
            # In logarithms: a narrow kernel is zero in floating point a few widths away.
            logs = -(torch.cdist(rows[own], group) / width).square()
            found[own] = math.log(len(group)) - torch.logsumexp(logs, 1)
        return found

    return score


def _dimensionality(clean: Tensor, neighbours: int) -> Fitted:
    count = min(neighbours, len(clean) - 1)

    def score(rows: Tensor, predicted: Tensor) -> Tensor:
        nearest = torch.cdist(rows, clean).topk(count, largest=False).values
        nearest = nearest.clamp_min(torch.finfo(rows.dtype).tiny)
        means: Tensor = (nearest / nearest[:, -1:]).log().mean(1)
        return -1 / means.clamp_max(-torch.finfo(rows.dtype).eps)

    return score


def _gaussians(groups: dict[int, Tensor], *, tied: bool) -> Fitted:
    means = {label: group.mean(0) for label, group in groups.items()}
    centred = {label: group - means[label] for label, group in groups.items()}
    total = sum(len(group) for group in groups.values())
    if tied:
        shared = _factor(torch.cat(list(centred.values())))
        factors = dict.fromkeys(groups, shared)
    else:
        factors = {label: _factor(rows) for label, rows in centred.items()}

    def score(rows: Tensor, predicted: Tensor) -> Tensor:
        logs = [
            math.log(len(group) / total) + _log_normal(rows - means[label], factors[label])
            for label, group in groups.items()
        ]
        return -torch.logsumexp(torch.stack(logs), 0)

    return score


def _factor(centred: Tensor) -> Tensor:
    """The Cholesky factor of the shrunk covariance."""
    covariance = LedoitWolf(store_precision=False, assume_centered=True).fit(centred.cpu().numpy()).covariance_
    matrix: Tensor = torch.from_numpy(covariance).to(centred)
    # Features that are always zero leave a covariance of less than full rank: the least that makes it one is added.
    least = torch.finfo(matrix.dtype).eps * matrix.diagonal().mean().clamp_min(torch.finfo(matrix.dtype).tiny) * 1e4
    factor: Tensor = torch.linalg.cholesky(matrix + least * torch.eye(len(matrix)).to(matrix))
    return factor


def _log_normal(offsets: Tensor, factor: Tensor) -> Tensor:
    """log N(x; μ, L Lᵀ) of x − μ, [n, d]."""
    white: Tensor = torch.linalg.solve_triangular(factor, offsets.T, upper=False)
    half: Tensor = factor.diagonal().log().sum()
    return -0.5 * (white.square().sum(0) + offsets.shape[1] * math.log(2 * math.pi)) - half
