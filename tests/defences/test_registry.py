"""The table of defences, and guards without trusted data."""

from __future__ import annotations

import pytest
from tests.defences.conftest import easy

from taster.defences import (
    DEFENCES,
    clipping,
)
from taster.errors import GuardError


def test_all_defences_are_named_by_their_function() -> None:
    assert set(DEFENCES) == {
        "dagc",
        "none",
        "clipping",
        "quantile_clipping",
        "agem_projection",
        "adversarial_training_correction",
        "trades_correction",
        "mart_correction",
        "mma_correction",
        "fat_correction",
        "dsc",
        "discrepancy_screen",
        "anomaly_screen",
        "influence_screen",
        "backdoor_screen",
        "probe_gate",
        "accuracy_monitor",
        "loss_alarm",
        "retry_low_score_half",
        "trusted_replay",
        "guard",
        "temporal_aggregation_stream",
    }


def test_a_guard_without_trusted_data_cannot_be_renewed() -> None:
    with pytest.raises(GuardError, match="none of whose stages uses trusted data"):
        clipping(max_norm=1.0).set_trusted_data(easy(10))
