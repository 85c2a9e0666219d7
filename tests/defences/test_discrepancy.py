"""Memorization Discrepancy, its thresholds, and the defences built on it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from taster import Batch, Learner, ScreenedBatch, SnapshotBuffer, View
from taster.defences import (
    adversarial_training_correction,
    anomaly_screen,
    discrepancy_screen,
    dsc,
    fat_correction,
    mart_correction,
    mma_correction,
    trades_correction,
)
from taster.defences.screens.score_screen import ScoreScreen
from taster.errors import GuardError, SnapshotError
from taster.perturbations.objectives import SampleLoss, divergence, margin, mart_loss, trades_loss
from taster.perturbations.pgd import LpBall
from taster.scores.base import LinearThreshold, QuantileThreshold
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy


def screened(guard: Any, batch: Batch, view: View) -> Any:
    (screen,) = guard.screens
    return screen(ScreenedBatch(batch), view)


def learner_with_a_past(guard: Any = None, steps: int = 12) -> Learner:
    """Its past is pinned as "early"."""
    learner = tiny_learner(guard=None, history=SnapshotBuffer(capacity=3))
    assert learner.history is not None
    learner.history.pin("early", learner.snapshot())
    for i in range(steps):
        learner.step(tiny_batch(16, seed=i))
    if guard is not None:
        learner.guard = guard
    return learner


def test_it_is_the_divergence_of_past_and_present() -> None:
    learner = learner_with_a_past()
    view, batch = learner.view(), tiny_batch(10, seed=50)
    now, past = view.forward(batch.x), view.at("early").forward(batch.x)
    by_hand = (past.softmax(1) * (log_softmax(past, 1) - log_softmax(now, 1))).sum(1)
    score = MemorizationDiscrepancy("early")
    assert torch.allclose(score(batch, view), by_hand)
    assert bool((score(batch, view) > 0).all())
    assert bool((MemorizationDiscrepancy("early", "js")(batch, view) < score(batch, view)).any())
    fresh = tiny_learner(history=SnapshotBuffer(capacity=3))
    fresh.step(tiny_batch())
    assert torch.allclose(MemorizationDiscrepancy(1)(batch, fresh.view().at(0)), torch.zeros(10), atol=1e-6)


def test_the_past_by_steps_is_the_nearest_kept() -> None:
    learner = learner_with_a_past(steps=8)
    view = learner.view()
    assert view.snapshot_steps == (5, 6, 7)
    assert [view.steps_ago(k).step for k in (1, 2, 3, 20)] == [7, 6, 5, 5]
    with pytest.raises(SnapshotError, match=r"wanted a model of 2 steps ago.*history.capacity"):
        MemorizationDiscrepancy(2)(tiny_batch(), tiny_learner().view())
    with pytest.raises(SnapshotError, match="epoch-3"):
        MemorizationDiscrepancy("epoch-3")(tiny_batch(), view)


def test_thresholds() -> None:
    learner = learner_with_a_past(steps=8)
    assert LinearThreshold(0.5, 0.02)(learner.view()) == pytest.approx(0.5 + 0.02 * 8)
    clean, score = tiny_batch(40, seed=3), MemorizationDiscrepancy("early")
    threshold = QuantileThreshold(score, clean, 0.75, refit_every=3)
    first = threshold(learner.view())
    assert float((score(clean, learner.view()) <= first).float().mean()) == pytest.approx(0.75, abs=0.03)
    values = []
    for i in range(6):
        record = learner.step(tiny_batch(16, seed=100 + i))
        threshold.observe(record, learner.view())
        values.append(threshold(learner.view()))
    # steps 8 to 13, estimated after the third, sixth, ...: 8 and 11
    assert first != values[0] == values[1] == values[2] != values[3] == values[4] == values[5]
    again = QuantileThreshold(score, clean, 0.75, refit_every=3)
    again.load_state_dict(threshold.state_dict())
    assert again(learner.view()) == values[-1]
    with pytest.raises(GuardError, match="wanted 0 to 1"):
        QuantileThreshold(score, clean, 1.5)


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
def test_the_variants_descend_their_own_loss(build: Any, loss: SampleLoss) -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(16, seed=60), learner.view()
    found = screened(build(epsilon=0.1, steps=5, step_size=0.02), batch, view)
    x, came = found.batch.x, view.forward(batch.x)
    assert float((x - batch.x).abs().max()) <= 0.1 + 1e-6
    assert found.corrected == 16
    assert float(loss(view.forward(x), batch.y, came).mean()) < float(loss(came, batch.y, came).mean())
    plainly = screened(adversarial_training_correction(epsilon=0.1, steps=5, step_size=0.02), batch, view)
    assert not torch.equal(x, plainly.batch.x)


def test_trades_stays_nearer_to_the_prediction_that_came() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(16, seed=60), learner.view()
    moved = [
        divergence(view.forward(batch.x), view.forward(screened(guard, batch, view).batch.x)).mean()
        for guard in (adversarial_training_correction(), trades_correction(kl_weight=50.0))
    ]
    assert float(moved[1]) < float(moved[0])


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_friendly_correction_stops_once_the_model_is_right(patience: int) -> None:
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


def test_any_score_corrects() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(20, seed=61), learner.view()
    (screen,) = anomaly_screen(tiny_batch(60, seed=9), quantile=0.5, action="correct", steps=4).screens
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


def test_dsc_moves_what_is_above_the_threshold_and_nothing_else() -> None:
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


def test_dsc_stops_a_sample_once_it_is_under() -> None:
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


def test_by_batch_one_mean_decides_for_all() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(20, seed=63), learner.view()
    mean = float(MemorizationDiscrepancy("early")(batch, view).mean())
    options: dict[str, Any] = {"reference_model": "early", "granularity": "batch", "steps": 2}
    over = screened(dsc(tiny_batch(), threshold=mean * 0.99, **options), batch, view)
    under = screened(dsc(tiny_batch(), threshold=mean * 1.01, **options), batch, view)
    assert (over.corrected, under.corrected) == (20, 0)


def test_a_score_screens_by_dropping_and_by_weighting() -> None:
    learner = learner_with_a_past()
    batch, view = tiny_batch(20, seed=64), learner.view()
    values = MemorizationDiscrepancy("early")(batch, view)
    bound = float(values.median())
    dropped = screened(discrepancy_screen(tiny_batch(), reference_model="early", threshold=bound), batch, view)
    assert torch.equal(dropped.batch.x, batch.x[values <= bound])
    weighted = screened(
        discrepancy_screen(tiny_batch(), reference_model="early", threshold=bound, action="weight"), batch, view
    )
    assert torch.allclose(weighted.weights, torch.exp(bound - values).clamp(max=1))
    broken = ScoreScreen("broken", lambda b, v: torch.full((len(b),), float("nan")), LinearThreshold(1.0))
    assert broken(ScreenedBatch(batch), view).empty
    broken.action = "weight"
    assert torch.equal(broken(ScreenedBatch(batch), view).weights, torch.zeros(20))


@pytest.mark.parametrize("build", [dsc, discrepancy_screen])
def test_guards_learn_with_an_estimated_threshold_and_keep_their_state(build: Any) -> None:
    probe = tiny_batch(40, seed=5)
    learner = learner_with_a_past(build(probe, reference_model="early", refit_every=2))
    for i in range(5):
        record = learner.step(tiny_batch(16, seed=200 + i))
        assert record.verdict.committed
    state = learner.guard.state_dict()
    twin = build(probe, reference_model="early", refit_every=2)
    twin.load_state_dict(state)
    assert twin.state_dict() == state
    assert state[0]["threshold"]["value"] is not None
