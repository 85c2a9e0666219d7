"""Linear classifiers: what they learn, and the derivatives of that."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from tests.attacks.poison_problems import central_differences, gaussians, knows

from taster import Batch
from taster.attacks import ConvexSettings
from taster.attacks.dataset.ascent import ascend
from taster.attacks.dataset.flat_samples import flat_samples, poisoned_count, with_changed
from taster.attacks.dataset_attack import DatasetBudget
from taster.derivatives.convex_losses import LOSSES, ConvexLoss
from taster.derivatives.convex_models import train_convex, with_one
from taster.derivatives.linear_systems import iterative_solve
from taster.errors import AttackError, BatchError, ModelError
from taster.perturbations.pgd import LpBall

CLEAN, OWN = gaussians(40, 0, classes=3), gaussians(30, 1, classes=3)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_slopes_and_curvatures_are_the_derivatives_of_the_losses(loss: ConvexLoss) -> None:
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(5, 3, generator=g, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    value, slope, curvature = LOSSES[loss](z, y)
    full = torch.stack([torch.stack([curvature.entry(a, b) for b in range(3)], 1) for a in range(3)], 1)
    along = torch.randn(5, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(curvature.apply(along), torch.einsum("nab,nb->na", full, along))
    heavier = curvature.weighted(torch.arange(5.0, dtype=torch.float64))
    torch.testing.assert_close(heavier.entry(0, 1), torch.arange(5.0, dtype=torch.float64) * full[:, 0, 1])
    torch.testing.assert_close(heavier.apply(along), torch.arange(5.0)[:, None] * curvature.apply(along))
    assert value.shape == (5,)
    torch.testing.assert_close(
        central_differences(lambda v: float(LOSSES[loss](v, y).value.sum()), z), slope, atol=1e-6, rtol=1e-6
    )
    for k in range(3):
        bend = central_differences(lambda v, k=k: float(LOSSES[loss](v, y).slope[:, k].sum()), z)
        torch.testing.assert_close(bend, full[:, k], atol=1e-6, rtol=1e-6)


def test_logistic_regression_and_ridge_learn_what_scikit_learns() -> None:
    # The bias is regularized too: a constant feature without an intercept.
    x, n = with_one(CLEAN.x), len(CLEAN)
    found = train_convex(ConvexSettings(l2=0.05), CLEAN.x, CLEAN.y, 3).theta
    known = LogisticRegression(C=1 / (0.05 * n), fit_intercept=False, tol=1e-10, max_iter=10_000)
    torch.testing.assert_close(found, torch.from_numpy(known.fit(x, CLEAN.y).coef_), atol=1e-5, rtol=1e-5)
    found = train_convex(ConvexSettings(loss="ridge", l2=0.05), CLEAN.x, CLEAN.y, 3).theta
    target = torch.nn.functional.one_hot(CLEAN.y, 3).double()
    known = Ridge(alpha=0.05 * n, fit_intercept=False).fit(x, target)
    torch.testing.assert_close(found, torch.from_numpy(known.coef_), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_conjugate_gradients_find_what_cholesky_finds(loss: ConvexLoss) -> None:
    exact = train_convex(ConvexSettings(loss=loss), CLEAN.x, CLEAN.y, 3)
    loose = ConvexSettings(loss=loss, exact_up_to=1, solve_tolerance=1e-12)
    iterative = train_convex(loose, CLEAN.x, CLEAN.y, 3)
    torch.testing.assert_close(iterative.theta, exact.theta, atol=1e-8, rtol=1e-8)
    right = exact.mean_loss_gradient(OWN.x, OWN.y)
    torch.testing.assert_close(iterative.solve(right), exact.solve(right), atol=1e-8, rtol=1e-8)
    assert float(exact.solve(right, damping=1.0).norm()) < float(exact.solve(right).norm())
    with pytest.raises(ModelError, match=r"conjugate gradients: got a relative residual of .* after 1 products"):
        iterative_solve(
            lambda v: v @ torch.diag(torch.tensor([1.0, 9.0])), torch.ones(1, 2), tolerance=1e-6, max_iterations=1
        )


@pytest.mark.parametrize("loss", list(LOSSES))
def test_influence_of_a_weight_is_the_derivative_of_training_with_it(loss: ConvexLoss) -> None:
    settings, n = ConvexSettings(loss=loss), len(CLEAN)
    learned = train_convex(settings, CLEAN.x, CLEAN.y, 3)
    along = learned.solve(learned.mean_loss_gradient(OWN.x, OWN.y))
    found = learned.influence(CLEAN.x, CLEAN.y, along) / n

    def after(weights: torch.Tensor) -> float:
        return train_convex(settings, CLEAN.x, CLEAN.y, 3, weights=weights).mean_loss(OWN.x, OWN.y)

    torch.testing.assert_close(
        central_differences(after, torch.ones(n, dtype=torch.float64)), found, atol=1e-7, rtol=1e-4
    )


def test_a_learner_that_does_not_converge_is_an_error() -> None:
    with pytest.raises(ModelError, match="training a linear model: got"):
        train_convex(ConvexSettings(l2=1e-300), 1e150 * CLEAN.x, CLEAN.y, 3)


def test_ascent_stays_in_its_ball_and_never_goes_down() -> None:
    ball, start = LpBall("l2", 1.0, 0.0, 1.0), torch.full((2, 3), 0.5, dtype=torch.float64)
    values: list[float] = []

    def objective(x: torch.Tensor) -> tuple[float, object]:
        values.append(float(-(x - 0.9).square().sum() - 10 * (x[:, 0] - 0.2).square().sum()))
        slope = -2 * (x - 0.9)
        slope[:, 0] -= 20 * (x[:, 0] - 0.2)
        return values[-1], lambda: slope

    found = ascend(objective, start, ball, iterations=200, step_size=0.5, halvings=30)  # type: ignore[arg-type]
    assert objective(found)[0] == max(values)
    torch.testing.assert_close(found[:, 1:], torch.full((2, 2), 0.9, dtype=torch.float64), atol=1e-3, rtol=0)
    near = ascend(objective, start, LpBall("l2", 0.1, 0.0, 1.0), iterations=50, step_size=0.5)  # type: ignore[arg-type]
    assert float((near - start).norm(dim=1).max()) <= 0.1 + 1e-12
    assert torch.equal(ascend(objective, start, ball, iterations=0, step_size=0.5), start)  # type: ignore[arg-type]


def test_samples_that_no_model_can_be_trained_on_are_errors() -> None:
    def flat(clean: Batch = CLEAN, own: Batch = OWN) -> object:
        return flat_samples(clean, knows(own, 3), "this")

    broken = CLEAN.x.clone()
    broken[0] = float("nan")
    with pytest.raises(AttackError, match=r"this: training set: got torch\.float64 or values that are not finite"):
        flat(Batch(broken, CLEAN.y))
    with pytest.raises(AttackError, match=r"this: training set: got torch\.int64"):
        flat(Batch(CLEAN.x.long(), CLEAN.y))
    with pytest.raises(AttackError, match=r"own samples: got \[30, 2\], wanted \[m, 3\]"):
        flat(own=Batch(OWN.x[:, :2], OWN.y))
    with pytest.raises(AttackError, match="own samples: got the label 3, wanted 0 to 2"):
        flat(own=Batch(OWN.x, OWN.y + 1))
    with pytest.raises(BatchError):
        flat(own=Batch({"x": OWN.x}, OWN.y))
    with pytest.raises(AttackError, match=r"got 0\.01, which is no sample of 40, wanted at least 0\.025"):
        poisoned_count(DatasetBudget(0.01), 40, "this")


def test_changed_samples_keep_shape_and_type_and_the_others_their_bits() -> None:
    images = Batch(torch.rand(4, 1, 2, 3), torch.zeros(4, dtype=torch.long))
    changed = with_changed(images, torch.tensor([2]), torch.full((1, 6), 0.5, dtype=torch.float64), torch.tensor([1]))
    assert changed.x.dtype == torch.float32
    assert torch.equal(changed.x[2], torch.full((1, 2, 3), 0.5))
    assert torch.equal(changed.x[[0, 1, 3]], images.x[[0, 1, 3]])
    assert changed.y.tolist() == [0, 0, 1, 0]
