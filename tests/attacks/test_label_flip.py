"""Flipped labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import make_attack, trained_learner
from tests.conftest import tiny_batch

from taster import Batch, Phase
from taster.errors import AttackError


def test_flipped_labels_are_of_other_classes_or_of_the_one_asked_for() -> None:
    view, clean = trained_learner().view(), tiny_batch(60, seed=3)

    def flipped(**settings: Any) -> Batch:
        campaign = make_attack("label_flip", **settings)
        return campaign.poison(clean, view, Phase.ACCUMULATE)

    assert bool((flipped().y != clean.y).all())
    assert set(flipped().y.tolist()) == {0, 1, 2}
    assert torch.equal(flipped(target_class=1).y, torch.ones_like(clean.y))
    only = flipped(source_class=0, target_class=2).y
    assert torch.equal(only, torch.where(clean.y == 0, 2, clean.y))
    assert int((flipped(poison_fraction=0.25).y != clean.y).sum()) == 15
    assert torch.equal(flipped(systematic=True).y, (clean.y + 1) % 3)
    with pytest.raises(AttackError, match="target_class: got 3, wanted 0 to 2"):
        flipped(target_class=3)
    with pytest.raises(AttackError, match="systematic: got true with target_class 1"):
        flipped(systematic=True, target_class=1)
