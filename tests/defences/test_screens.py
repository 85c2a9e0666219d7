"""Screens by a score: dropping, weighting, their state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import tiny_batch
from tests.defences.conftest import learner_with_a_past, screened

from taster import ScreenedBatch
from taster.defences import (
    discrepancy_screen,
    dsc,
)
from taster.defences.screens.score_screen import ScoreScreen
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy
from taster.scores.thresholds import LinearThreshold


def test_a_score_screen_drops_or_weights() -> None:
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
def test_an_estimated_threshold_is_part_of_the_state(build: Any) -> None:
    probe = tiny_batch(40, seed=5)
    learner = learner_with_a_past(build(probe, reference_model="early", refit_every=2))
    for i in range(5):
        record = learner.step(tiny_batch(16, seed=200 + i))
        assert record.verdict.committed
    state = learner.guard.state_dict()
    twin = build(probe, reference_model="early", refit_every=2)
    twin.load_state_dict(state)
    assert twin.state_dict() == state
    assert state[0]["threshold"]["fitted"] is not None
