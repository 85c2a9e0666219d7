"""TRIM for ridge regression."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from taster.defences import trim_ridge
from taster.errors import BatchError, DefenceError, SettingError
from taster.utils.seeds import generator


def line(n: int = 60, d: int = 3, poisoned: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples of a plane, the first few of them lifted off it; and the plane's w."""
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(n, d, generator=g).double(), torch.randn(d, generator=g).double()
    y = x @ w + 1 + 0.05 * torch.randn(n, generator=g)
    y[:poisoned] += 4 + torch.rand(poisoned, generator=g)
    return x, y, w


def plain_trim(x: np.ndarray, y: np.ndarray, first: list[int], penalty: float) -> list[int]:
    """Algorithm 3 with scikit-learn's ridge, whose alpha counts for the sum of squares."""
    kept, last = sorted(first), float("inf")
    for _ in range(100):
        model = Ridge(alpha=penalty / 2 * len(kept)).fit(x[kept], y[kept])
        loss = np.mean((model.predict(x[kept]) - y[kept]) ** 2) + penalty / 2 * np.sum(model.coef_**2)
        if loss >= last - 1e-15:
            break
        last, best = loss, kept
        residuals = (model.predict(x) - y) ** 2
        kept = sorted(np.argsort(residuals, kind="stable")[: len(first)].tolist())
    return best


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_alternation_of_the_paper(seed: int) -> None:
    x, y, _ = line(30, 2, poisoned=8, seed=seed)
    first = torch.randperm(30, generator=generator(seed, "first sets of TRIM"))[:20].tolist()
    found = trim_ridge(x, y, keep=20 / 30, penalty=0.01, seed=seed)
    assert found.kept.nonzero().flatten().tolist() == plain_trim(x.numpy(), y.numpy(), first, 0.01)
    kept = found.kept.numpy()
    model = Ridge(alpha=0.01 / 2 * 20).fit(x.numpy()[kept], y.numpy()[kept])
    np.testing.assert_allclose(found.coefficients, model.coef_, rtol=1e-9)
    assert found.intercept == pytest.approx(model.intercept_)
    np.testing.assert_allclose(found.predict(x), model.predict(x.numpy()), rtol=1e-9)


def test_many_starts_find_the_best_set_there_is() -> None:
    x, y, _ = line(9, 1, poisoned=3, seed=3)
    losses = {}
    for kept in itertools.combinations(range(9), 6):
        own = list(kept)
        model = Ridge(alpha=0.01 / 2 * 6).fit(x[own].numpy(), y[own].numpy())
        losses[kept] = float(np.mean((model.predict(x[own].numpy()) - y[own].numpy()) ** 2)) + 0.005 * float(
            model.coef_[0] ** 2
        )
    found = trim_ridge(x, y, keep=6 / 9, penalty=0.01, starts=40)
    assert found.loss == pytest.approx(min(losses.values()))
    assert tuple(found.kept.nonzero().flatten().tolist()) == min(losses, key=lambda kept: losses[kept])


def test_it_finds_the_plane_that_ridge_regression_misses() -> None:
    x, y, w = line(200, 3, poisoned=40)
    plain = trim_ridge(x, y, keep=1.0, penalty=1e-4)
    found = trim_ridge(x, y, keep=0.8, penalty=1e-4, starts=5)
    assert not bool(found.kept[:40].any())
    assert float((found.coefficients - w).norm()) < 0.05
    assert found.intercept == pytest.approx(1, abs=0.05)
    assert plain.intercept > 1.5
    assert plain.rounds == 0


def test_no_round_makes_the_loss_larger() -> None:
    x, y, _ = line(60, 3, poisoned=20, seed=2)
    losses = [trim_ridge(x, y, keep=0.6, max_rounds=rounds).loss for rounds in range(1, 8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y, _ = line(20)
    with pytest.raises(BatchError, match="wanted floating point"):
        trim_ridge(x[:, 0], y, keep=0.5)
    with pytest.raises(BatchError, match="wanted floating point"):
        trim_ridge(x, y[:5], keep=0.5)
    with pytest.raises(BatchError, match="NaN or infinity"):
        trim_ridge(x, y.where(torch.arange(20) > 0, torch.nan), keep=0.5)
    with pytest.raises(DefenceError, match="keeps some"):
        trim_ridge(x, y, keep=0.01)
    with pytest.raises(SettingError, match="keep"):
        trim_ridge(x, y, keep=0.0)
    with pytest.raises(SettingError, match="penalty"):
        trim_ridge(x, y, keep=0.5, penalty=0.0)
