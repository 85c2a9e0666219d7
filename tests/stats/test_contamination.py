"""Contamination: p-values of honest samples are uniform, poison is found, and the limit is where it is the majority."""

from __future__ import annotations

import numpy as np
import pytest

from taster.errors import SettingError
from taster.stats.contamination import conformal_p_values, contamination_limit


def test_p_values_are_shares_of_trusted_scores() -> None:
    trusted = np.array([1.0, 2.0, 3.0])
    found = conformal_p_values(np.array([0.0, 1.0, 2.5, 3.0, 9.0, np.nan, np.inf]), trusted)
    assert found.tolist() == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_honest_samples_have_no_limit() -> None:
    draw = np.random.default_rng(0)
    limits = [
        contamination_limit(conformal_p_values(draw.normal(size=200), draw.normal(size=100)), 100, 1e-5)
        for _ in range(300)
    ]
    assert sum(limit > 0 for limit in limits) <= 1


def test_poison_is_found_and_parted_from_honest_samples() -> None:
    draw = np.random.default_rng(1)
    caught, spared = [], []
    for _ in range(20):
        trusted, honest, poison = draw.normal(size=100), draw.normal(size=200), 3.5 + draw.normal(size=60)
        p_values = conformal_p_values(np.concatenate([honest, poison]), trusted)
        limit = contamination_limit(p_values, 100, 1e-5)
        caught.append(float((p_values[200:] <= limit).mean()))
        spared.append(float((p_values[:200] > limit).mean()))
    assert np.mean(caught) > 0.8
    assert np.mean(spared) > 0.95


def test_where_poison_is_the_minority_nothing_is_dropped_for_it() -> None:
    # All poison lies where half of the honest samples do: more honest than poisoned samples would be dropped.
    trusted = np.linspace(0, 1, 100)
    honest = np.linspace(0, 1, 400)
    poison = np.linspace(0.5, 1, 120)
    p_values = conformal_p_values(np.concatenate([honest, poison]), trusted)
    assert contamination_limit(p_values, 100, 1e-2) == 0.0


def test_nothing_to_compare_is_no_contamination() -> None:
    assert contamination_limit(np.empty(0), 100, 1e-5) == 0.0
    assert contamination_limit(np.array([0.5]), 1, 1e-5) == 0.0
    with pytest.raises(SettingError, match="alpha"):
        contamination_limit(np.array([0.5]), 100, 1.5)
