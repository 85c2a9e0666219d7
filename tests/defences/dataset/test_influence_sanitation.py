"""Sanitation by influence, and the regression that it rests on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from tests.defences.dataset.conftest import (
    LogisticFit,
    NetFit,
    accuracy,
    blobs,
    defended,
    digit_sets,
    flipped,
    run_of,
)

from taster.defences import influence_sanitation
from taster.derivatives.conjugate_gradients import conjugate_gradients
from taster.derivatives.convex_models import ConvexSettings, train_convex
from taster.errors import BatchError, DefenceError, SettingError


def left_out(rows: torch.Tensor, y: torch.Tensor, classes: int, penalty: float, without: int | None) -> np.ndarray:
    """W by BFGS, the sum over the other samples still divided by all."""
    x = np.hstack([rows.double().numpy(), np.ones((len(rows), 1))])
    counts = np.ones(len(rows))
    if without is not None:
        counts[without] = 0

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(-1, classes)
        scores = x @ w
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        loss = -(counts * logs[np.arange(len(y)), y.numpy()]).sum() / len(y) + penalty / 2 * (w**2).sum()
        delta = np.exp(logs) - np.eye(classes)[y.numpy()]
        return loss, (x.T @ (delta * counts[:, None]) / len(y) + penalty * w).ravel()

    found = minimize(objective, np.zeros(x.shape[1] * classes), jac=True, method="BFGS", options={"gtol": 1e-9})
    return np.asarray(found.x).reshape(-1, classes)


def test_the_fit_is_the_minimum() -> None:
    samples, _ = flipped(blobs(60), 0.1, 3)
    model = train_convex(ConvexSettings(exact_up_to=1), samples.x.double(), samples.y, 3)
    np.testing.assert_allclose(model.theta.T, left_out(samples.x, samples.y, 3, 0.01, None), atol=1e-6)


def test_gains_are_what_training_without_a_sample_shows() -> None:
    samples, wrong = flipped(blobs(60, spread=0.5), 0.2, 3)
    held = blobs(60, seed=1, spread=0.5)
    x, other = samples.x.double(), held.x.double()
    model = train_convex(ConvexSettings(exact_up_to=1), x, samples.y, 3)
    along = model.solve(model.mean_loss_gradient(other, held.y))
    found = model.influence(x, samples.y, along) / len(x)
    exact = []
    for i in range(60):
        weight = torch.from_numpy(left_out(samples.x, samples.y, 3, 0.01, i))
        logs = (held.x.double() @ weight[:-1] + weight[-1]).log_softmax(1)
        exact.append(model.mean_loss(other, held.y) + float(logs.gather(1, held.y[:, None]).mean()))
    np.testing.assert_allclose(found, exact, atol=0.2 * max(map(abs, exact)))
    assert spearmanr(found, exact).statistic > 0.98
    assert np.polyfit(found.numpy(), exact, 1)[0] == pytest.approx(1, abs=0.2)
    assert float(found[wrong].mean()) > 0 > float(found[~wrong].mean())


def test_conjugate_gradients_solve_a_system() -> None:
    g = torch.Generator().manual_seed(0)
    root, b = torch.randn(12, 12, generator=g).double(), torch.randn(4, 3, generator=g).double()
    a = root @ root.T + torch.eye(12)
    found = conjugate_gradients(lambda v: (a @ v.flatten()).view(4, 3), b, tolerance=1e-10, max_iterations=12).x
    torch.testing.assert_close(found.flatten(), torch.linalg.solve(a, b.flatten()), rtol=1e-6, atol=1e-8)
    assert not bool(conjugate_gradients(lambda v: v, torch.zeros(3), tolerance=0.1, max_iterations=3).x.any())


@pytest.mark.parametrize("fit", [LogisticFit(c=10.0), NetFit(steps=40)], ids=["logistic", "net"])
def test_accuracy_comes_back_under_random_labels(fit: LogisticFit | NetFit) -> None:
    train, trusted, test = digit_sets()
    samples, wrong = flipped(train, 0.3, 10)
    undefended = accuracy(fit(samples), test)
    found = {}
    for share in (None, 0.15, 0.3):
        classifier, weights = defended(influence_sanitation(share=share), run_of(samples, trusted, fit))
        assert weights is not None
        removed = weights == 0
        found[share] = accuracy(classifier, test)
        assert found[share] > undefended
        assert float(wrong[removed].float().mean()) > (0.6 if share == 0.3 else 0.8)
        assert share is None or 0.8 * share * 600 < int(removed.sum()) <= share * 600


def test_honest_samples_are_lost_at_no_higher_rate_than_was_asked_for() -> None:
    lost = []
    for seed in range(4):
        train, trusted, _ = digit_sets(400, 200, seed)
        _, weights = defended(influence_sanitation(alpha=0.1), run_of(train, trusted, LogisticFit(), seed=seed))
        assert weights is not None
        lost.append(float((weights == 0).float().mean()))
    assert 0 < sum(lost) / 4 < 0.13


def test_a_share_takes_no_sample_that_helps() -> None:
    train, trusted, _ = digit_sets(200)
    _, weights = defended(influence_sanitation(share=0.95), run_of(train, trusted, LogisticFit()))
    assert weights is not None
    assert 0 < float((weights == 0).float().mean()) < 0.2


def test_what_cannot_work_is_refused() -> None:
    samples = blobs(60)
    with pytest.raises(DefenceError, match=r"got 30 trusted samples, wanted at least 40 for alpha 0\.05"):
        defended(influence_sanitation(), run_of(samples, blobs(30), LogisticFit(3), 3))
    with pytest.raises(BatchError, match="1 trusted samples"):
        defended(influence_sanitation(share=0.1), run_of(samples, blobs(1), LogisticFit(3), 3))
    with pytest.raises(DefenceError, match="without features"):
        defended(influence_sanitation(space="features"), run_of(samples, blobs(60), LogisticFit(3), 3))
    for settings in ({"share": 1.0}, {"alpha": 0.0}, {"penalty": 0.0}, {"space": "input", "layer": "1"}):
        with pytest.raises(SettingError):
            influence_sanitation(**settings)  # type: ignore[arg-type]
