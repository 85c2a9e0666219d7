"""Evidence of harm: valid for what does no harm, strong against what does."""

from __future__ import annotations

import pytest
import torch

from taster.evidence import evidence_of_harm


def outcomes(n: int, lost: float, gained: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right and wrong before and after, where samples are lost and gained with these chances."""
    fate = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    before = (fate >= gained).float()
    after = before.clone()
    after[fate < gained] = 1
    after[fate > 1 - lost] = 0
    return before, after


@pytest.mark.parametrize(("lost", "gained", "tolerance"), [(0.05, 0.05, 0.0), (0.02, 0.0, 0.02), (0.15, 0.1, 0.05)])
def test_an_update_within_the_tolerance_is_seldom_refused(lost: float, gained: float, tolerance: float) -> None:
    found = [evidence_of_harm(*outcomes(300, lost, gained, seed), tolerance) for seed in range(2000)]
    for level in (0.1, 0.05, 0.01):
        assert sum(e >= 1 / level for e in found) / len(found) <= level
    assert sum(found) / len(found) < 1.3  # at most 1 on average, but for the luck of 2,000 draws


def test_harm_is_seen_and_more_of_it_sooner() -> None:
    seen = [
        sum(evidence_of_harm(*outcomes(1000, lost, 0.01, seed)) >= 100 for seed in range(100))
        for lost in (0.02, 0.04, 0.06)
    ]
    assert seen == sorted(seen)
    assert seen[-1] >= 99


def test_by_hand() -> None:
    before, after = torch.ones(3), torch.tensor([0.0, 1.0, 1.0])
    bets = torch.logspace(-2, 0, 16, dtype=torch.float64) * 0.95 / 1.1
    expected = float(((1 + bets * 0.9) * (1 - bets * 0.1) ** 2).mean())
    assert evidence_of_harm(before, after, 0.1) == pytest.approx(expected)
    assert evidence_of_harm(before, before) == pytest.approx(1)
    assert evidence_of_harm(torch.ones(0), torch.ones(0)) == 1
    assert evidence_of_harm(torch.ones(10**5), torch.zeros(10**5)) > 1e300


def test_probabilities_tell_more_than_right_and_wrong() -> None:
    g = torch.Generator().manual_seed(0)
    before = 0.9 + 0.05 * torch.rand(100, generator=g)
    after = before - 0.1 - 0.1 * torch.rand(100, generator=g)
    assert evidence_of_harm(before, after, 0.01) > 1000
    assert evidence_of_harm((before > 0.5).float(), (after > 0.5).float(), 0.01) < 1
