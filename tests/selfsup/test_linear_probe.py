"""The linear classifier on features: scikit-learn's, folded back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.core.view import View
from taster.selfsup.linear_probe import features_of, fit_linear_probe


def make_view() -> View:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), cross_entropy).view()


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_regression_of_scikit_learn_on_scaled_features(classes: int) -> None:
    view = make_view()
    x = 3 * torch.randn(90, 4, generator=torch.Generator().manual_seed(1))
    samples = Batch(x, torch.arange(90) % classes)
    probe = fit_linear_probe(view, samples, classes, c=0.5)
    rows = features_of(view, x).double().numpy()
    kept = rows.std(0) > 0
    wanted = make_pipeline(StandardScaler(), LogisticRegression(C=0.5 * 89 / 90, max_iter=500))
    wanted.fit(rows[:, kept], samples.y.numpy())
    found = torch.softmax(probe.outputs(x), 1).double().numpy()
    assert np.abs(found - wanted.predict_proba(rows[:, kept])).max() < 0.01


def test_a_class_that_no_sample_has_is_never_predicted() -> None:
    view = make_view()
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    probe = fit_linear_probe(view, Batch(x, 2 * (torch.arange(40) % 2)), 3, c=1.0)
    found = probe.outputs(x)
    assert found.shape == (40, 3)
    assert bool((found.argmax(1) != 1).all())
    assert bool(found.isfinite().all())
