"""Thresholds: linear, a quantile of clean scores, a quantile of recent values."""

from __future__ import annotations

import pytest
from tests.conftest import tiny_batch
from tests.defences.conftest import learner_with_a_past

from taster.errors import GuardError
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy
from taster.scores.thresholds import LinearThreshold, QuantileThreshold


def test_thresholds_grow_or_follow_a_quantile() -> None:
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
