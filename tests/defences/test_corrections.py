"""Corrections: down a loss, within a ball, for some samples or for all."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from benchmarks.launches import as_on_a_gpu, counted
from tests.conftest import full_state, same_state, tiny_batch
from tests.defences.conftest import learner_with_a_past, screened
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster import Batch, Guard, ScreenedBatch, View
from taster.defences import (
    adversarial_training_correction,
    dsc,
    fat_correction,
    mart_correction,
    mma_correction,
    trades_correction,
)
from taster.defences.corrections.loss_descent import LossDescent, ThresholdCorrection
from taster.perturbations.objectives import SampleLoss, divergence, margin, mart_loss, trades_loss
from taster.perturbations.pgd import LpBall
from taster.scores.feature_detectors import FeatureAnomalyScore
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy
from taster.scores.thresholds import QuantileThreshold


def test_correction_lowers_the_loss_within_the_ball() -> None:
    learner = learner_with_a_past()
    (screen,) = adversarial_training_correction(epsilon=0.1, steps=5, step_size=0.03).screens
    batch, view = tiny_batch(16, seed=60), learner.view()
    before = full_state(learner)
    corrected = screen(ScreenedBatch(batch), view)
    assert corrected.corrected == 16
    assert same_state(before, full_state(learner))
    x = corrected.batch.x
    assert float((x - batch.x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    old, new = (cross_entropy(view.forward(v), batch.y, reduction="none") for v in (batch.x, x))
    assert bool((new < old).all())


@pytest.mark.parametrize(
    ("build", "loss"),
    [
        (trades_correction, trades_loss(6.0)),
        (mart_correction, mart_loss(5.0)),
        (mma_correction, lambda f, y, _: margin(f, y)),
    ],
)
def test_trades_mart_and_mma_descend_their_own_loss(build: Any, loss: SampleLoss) -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(16, seed=60), learner.view()
    found = screened(build(epsilon=0.1, steps=5, step_size=0.02), batch, view)
    x, came = found.batch.x, view.forward(batch.x)
    assert float((x - batch.x).abs().max()) <= 0.1 + 1e-6
    assert found.corrected == 16
    assert float(loss(view.forward(x), batch.y, came).mean()) < float(loss(came, batch.y, came).mean())
    plainly = screened(adversarial_training_correction(epsilon=0.1, steps=5, step_size=0.02), batch, view)
    assert not torch.equal(x, plainly.batch.x)


def test_trades_stays_closer_to_the_initial_prediction() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(16, seed=60), learner.view()
    moved = [
        divergence(view.forward(batch.x), view.forward(screened(guard, batch, view).batch.x)).mean()
        for guard in (adversarial_training_correction(), trades_correction(kl_weight=50.0))
    ]
    assert float(moved[1]) < float(moved[0])


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_fat_stops_once_the_model_is_right(patience: int) -> None:
    learner = learner_with_a_past(steps=2)
    batch, view = tiny_batch(40, seed=60), learner.view()
    right = view.forward(batch.x).argmax(1) == batch.y
    assert 0 < int(right.sum()) < 40
    found = screened(fat_correction(patience=patience, epsilon=0.9, steps=30, step_size=0.02), batch, view).batch
    # By hand, a sample at a time.
    for i in range(40):
        x, left = batch.x[i : i + 1], patience
        for step in range(30):
            leaf = x.detach().requires_grad_(True)
            logits = view.forward(leaf)
            if step:
                left -= int(logits.argmax(1) == batch.y[i])
            if left < 0:
                break
            (slope,) = torch.autograd.grad(cross_entropy(logits, batch.y[i : i + 1]), leaf)
            x = LpBall("linf", 0.9).step(x, -slope, 0.02, batch.x[i : i + 1])
        assert torch.allclose(found.x[i], x[0], atol=1e-6), i


def test_any_score_can_select_what_is_corrected() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(20, seed=61), learner.view()
    score = FeatureAnomalyScore("gaussian", tiny_batch(30, seed=8))
    threshold = QuantileThreshold(score, tiny_batch(30, seed=9), 0.5)
    screen = ThresholdCorrection("any", LossDescent(LpBall("linf", 0.2), 4, 0.02), score, threshold)
    suspicious = screen.score(batch, view) > screen.threshold(view)
    assert 0 < int(suspicious.sum()) < 20
    found = screen(ScreenedBatch(batch), view)
    assert torch.equal((found.batch.x != batch.x).flatten(1).any(1), suspicious)
    assert found.corrected == int(suspicious.sum())


class Counting(View):
    """Counts the samples that go through the network."""

    def __init__(self, view: View) -> None:
        self.__dict__ = view.__dict__
        self.seen: list[int] = []

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        self.seen.append(len(x))
        return super().forward(x, **options)


def test_dsc_moves_only_samples_above_the_threshold() -> None:
    learner = learner_with_a_past()
    batch, view, score = tiny_batch(20, seed=61), learner.view(), MemorizationDiscrepancy("early")
    values = score(batch, view)
    bound = float(values.median())
    suspicious = values > bound
    guard = dsc(tiny_batch(), reference_model="early", threshold=bound, steps=6, step_size=0.05, epsilon=0.3)
    counting = Counting(view)
    found = screened(guard, batch, counting)
    moved = (found.batch.x != batch.x).flatten(1).any(1)
    assert torch.equal(moved, suspicious)
    assert found.corrected == int(suspicious.sum())
    # all of them once, then those still above alone
    assert counting.seen[0] == 20
    assert counting.seen[1] == int(suspicious.sum())
    assert counting.seen[1:] == sorted(counting.seen[1:], reverse=True)
    assert len(counting.seen) <= 7
    none = screened(dsc(tiny_batch(), reference_model="early", threshold=float(values.max()) + 1), batch, view)
    assert torch.equal(none.batch.x, batch.x)
    assert none.corrected == 0
    every = screened(dsc(tiny_batch(), reference_model="early", threshold=-1.0, steps=3, epsilon=0.3), batch, view)
    plain = screened(adversarial_training_correction(epsilon=0.3, steps=3), batch, view)
    assert torch.equal(every.batch.x, plain.batch.x)  # a threshold under everything is adversarial training


def test_dsc_stops_a_sample_once_it_is_under_the_threshold() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(20, seed=62), learner.view()
    score = MemorizationDiscrepancy("early")
    values = score(batch, view)
    bound = float(values.quantile(0.5))
    options: dict[str, Any] = {"reference_model": "early", "threshold": bound, "step_size": 0.02, "epsilon": 0.5}
    steps = [screened(dsc(tiny_batch(), steps=n, **options), batch, view).batch.x for n in range(1, 6)]
    for earlier, later in itertools.pairwise(steps):
        under = score(Batch(earlier, batch.y), view) <= bound
        assert torch.equal(later[under], earlier[under])
        assert bool((later[~under] != earlier[~under]).flatten(1).any(1).all()) or not bool((~under).any())


def test_dsc_by_batch_decides_by_the_mean() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(20, seed=63), learner.view()
    mean = float(MemorizationDiscrepancy("early")(batch, view).mean())
    options: dict[str, Any] = {"reference_model": "early", "granularity": "batch", "steps": 2}
    over = screened(dsc(tiny_batch(), threshold=mean * 0.99, **options), batch, view)
    under = screened(dsc(tiny_batch(), threshold=mean * 1.01, **options), batch, view)
    assert (over.corrected, under.corrected) == (20, 0)


@pytest.mark.parametrize(
    "guard",
    [
        fat_correction(patience=1, epsilon=0.9, steps=12, step_size=0.05),
        mart_correction(steps=4),
        dsc(tiny_batch(), reference_model="early", quantile=0.3, steps=12, epsilon=0.5),
        dsc(tiny_batch(), reference_model="early", quantile=0.3, steps=12, epsilon=0.5, granularity="batch", norm="l2"),
        dsc(tiny_batch(), reference_model="early", threshold=1e9),
    ],
    ids=["fat", "mart", "dsc", "dsc by batch", "dsc of none"],
)
def test_as_on_a_gpu_samples_end_where_they_do_on_a_cpu(guard: Guard) -> None:
    """There a sample that has stopped stays in the batch, so that nobody has to wait to know that it has."""
    batch, view = tiny_batch(20, seed=64), learner_with_a_past().view()
    here = screened(guard, batch, view)
    with as_on_a_gpu():
        there = screened(guard, batch, view)
    torch.testing.assert_close(there.batch.x, here.batch.x, rtol=0, atol=1e-6)
    assert there.corrected == here.corrected


def test_a_step_behind_dsc_waits_no_longer_however_far_it_corrects() -> None:
    def waits(steps: int) -> tuple[int, int]:
        learner = learner_with_a_past(dsc(tiny_batch(), reference_model="early", threshold=-1.0, steps=steps))
        batch = tiny_batch(20, seed=65)
        with as_on_a_gpu():
            counts = counted(lambda: learner.step(batch), warm=1)
        return counts.readings, counts.waits.total()

    # Read: the range of the batch, whether it is finite, the step. Asked: whom to correct, how many were.
    assert waits(2) == waits(12) == (3, 2)
