"""Targets of targeted attacks: drawn among the attacker's own samples, the same each time."""

from __future__ import annotations

import pytest
import torch

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.errors import AttackError

OWN = Batch(torch.arange(30.0)[:, None], torch.arange(30) % 3)


def knowledge(seed: int = 0, classes: int = 3) -> DatasetKnowledge:
    def fit(samples: Batch, **given: object) -> object:
        raise AssertionError("nothing is trained to draw targets")

    return DatasetKnowledge(classes, OWN, (fit,), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_targets_are_of_their_class_and_wanted_in_another() -> None:
    seen = set()
    for seed in range(20):
        found = draw_targets(TargetSettings(targets=4), knowledge(seed))
        assert found.target_class != found.wanted_class
        assert (found.x.flatten() % 3 == found.target_class).all()
        assert len(found.x.unique()) == 4
        assert found.wanted.y.tolist() == [found.wanted_class] * 4
        assert found.true.y.tolist() == [found.target_class] * 4
        seen.add((found.target_class, found.wanted_class))
    assert len(seen) == 6


def test_they_are_the_same_each_time_whatever_the_generator_has_drawn() -> None:
    known = knowledge(5)
    first = draw_targets(TargetSettings(), known)
    torch.rand(7, generator=known.generator)
    again = draw_targets(TargetSettings(), known)
    assert torch.equal(first.x, again.x)
    assert first.wanted_class == again.wanted_class


def test_classes_can_be_named() -> None:
    found = draw_targets(TargetSettings(target_class=2, wanted_class=0), knowledge())
    assert (found.target_class, found.wanted_class) == (2, 0)
    for seed in range(10):
        assert draw_targets(TargetSettings(wanted_class=1), knowledge(seed)).target_class != 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (TargetSettings(target_class=1, wanted_class=1), "wanted_class: got 1, which is target_class too"),
        (TargetSettings(target_class=3), "target_class: got 3, wanted 0 to 2"),
        (TargetSettings(targets=11), "targets: got 11, wanted at most 10"),
    ],
)
def test_what_there_is_not_is_told(settings: TargetSettings, told: str) -> None:
    with pytest.raises(AttackError, match=told):
        draw_targets(settings, knowledge())
