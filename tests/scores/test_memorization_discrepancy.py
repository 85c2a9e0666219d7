"""Memorization Discrepancy against its formula, and the models it compares."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner
from tests.defences.conftest import learner_with_a_past
from torch.nn.functional import log_softmax

from taster import SnapshotBuffer
from taster.errors import SnapshotError
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy


def test_it_is_the_divergence_of_past_and_present_predictions() -> None:
    learner = learner_with_a_past()
    view, batch = learner.view(), tiny_batch(10, seed=50)
    now, past = view.forward(batch.x), view.at("early").forward(batch.x)
    by_hand = (past.softmax(1) * (log_softmax(past, 1) - log_softmax(now, 1))).sum(1)
    score = MemorizationDiscrepancy("early")
    assert torch.allclose(score(batch, view), by_hand)
    assert bool((score(batch, view) > 0).all())
    assert bool((MemorizationDiscrepancy("early", "js")(batch, view) < score(batch, view)).any())
    fresh = tiny_learner(snapshots=SnapshotBuffer(capacity=3))
    fresh.step(tiny_batch())
    assert torch.allclose(MemorizationDiscrepancy(1)(batch, fresh.view().at(0)), torch.zeros(10), atol=1e-6)


def test_steps_back_find_the_nearest_snapshot() -> None:
    learner = learner_with_a_past(steps=8)
    view = learner.view()
    assert view.snapshot_steps == (5, 6, 7)
    assert [view.steps_ago(k).step for k in (1, 2, 3, 20)] == [7, 6, 5, 5]
    with pytest.raises(SnapshotError, match=r"wanted a model of 2 steps ago.*history.capacity"):
        MemorizationDiscrepancy(2)(tiny_batch(), tiny_learner().view())
    with pytest.raises(SnapshotError, match="epoch-3"):
        MemorizationDiscrepancy("epoch-3")(tiny_batch(), view)
