"""A linear classifier on the features of a net that stays as it is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.view import View

_CHUNK = 500
_ITERATIONS = 200
_NEVER = -1e4
"""The score of a class that no sample had."""


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A classifier: linear in a net's features, which are those before its last linear layer.

    Attributes:
        view: of the net.
        weight: [classes, d].
        bias: [classes].
    """

    view: View
    weight: Tensor
    bias: Tensor

    def outputs(self, x: Tensor) -> Tensor:
        """Scores of samples [n, ...], [n, classes]."""
        return features_of(self.view, x) @ self.weight.T + self.bias


def features_of(view: View, x: Tensor) -> Tensor:
    """Features of many samples [n, ...], [n, d], in eval mode and without a graph."""
    with torch.no_grad():
        return torch.cat([view.features(some)[0] for some in torch.split(x, _CHUNK)])


def fit_linear_probe(view: View, samples: Batch, classes: int, *, c: float) -> LinearProbe:
    """Multinomial logistic regression on features of mean 0 and deviation 1, by scikit-learn.

    Args:
        view: of the net.
        samples: x [n, ...] and y int64 [n], of at least two classes.
        classes: number of classes.
        c: inverse strength of the l2 penalty, C.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and only needed here
    from sklearn.linear_model import LogisticRegression

    found = features_of(view, samples.x)
    mean, deviation = found.mean(0), found.std(0)
    scale = torch.where(deviation > 0, deviation, 1)
    rows = ((found - mean) / scale).double().cpu().numpy()
    model = LogisticRegression(C=c, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the most iterations are the probe's definition
        model.fit(rows, samples.y.cpu().numpy())
    coefficients, intercepts = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(coefficients) == 1:  # of two classes scikit-learn keeps the second's
        coefficients, intercepts = (
            torch.cat([-coefficients, coefficients]) / 2,
            torch.cat([-intercepts, intercepts]) / 2,
        )
    weight, bias = found.new_zeros(classes, found.shape[1]), found.new_full((classes,), _NEVER)
    places = torch.from_numpy(model.classes_).to(found.device)
    weight[places] = coefficients.to(found) / scale
    bias[places] = intercepts.to(found) - weight[places] @ mean
    return LinearProbe(view, weight, bias)
