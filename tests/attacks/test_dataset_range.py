"""The range of the data that poison of training sets is held to."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.poison_problems import gaussians, knows

from taster import Batch
from taster.attacks import DATASET_ATTACKS, DatasetAttack, DatasetBudget, DatasetKnowledge, Poison
from taster.perturbations.pgd import LpBall


def change(to: float, content: LpBall | str, high: float = 4.0) -> tuple[Batch, Batch]:
    """A set with a value outside the range, and what becomes of it where another sample is changed."""
    clean = gaussians(10, 0)
    clean.x[3] = 5.0

    def poison(given: Batch, knowledge: DatasetKnowledge) -> Poison:
        x = given.x.clone()
        x[0] = to
        return Poison(Batch(x, given.y))

    attack = DatasetAttack(DatasetBudget(content=content), poison)  # type: ignore[arg-type]
    found = attack(clean, knows(clean, 2, low=-4.0, high=high))
    assert found.poisoned.tolist() == [True] + 9 * [False]
    return clean, found.samples


@pytest.mark.parametrize("content", [LpBall("linf", 100.0), LpBall("l2", 100.0), "any"])
def test_content_is_held_to_the_range_that_the_attacker_knows(content: LpBall | str) -> None:
    for to, high, expected in ((9.0, 4.0, 4.0), (-9.0, 4.0, -4.0), (2.0, 4.0, 2.0), (2.0, 1.5, 1.5)):
        clean, found = change(to, content, high)
        torch.testing.assert_close(found.x[0], torch.full((3,), expected, dtype=torch.float64))
        assert torch.equal(found.x[1:], clean.x[1:])


def test_attacks_on_training_sets_is_named_as_it_is_registered() -> None:
    for name in ("svm_poisoning", "machine_teaching", "back_gradient", "influence_selection"):
        assert DATASET_ATTACKS[name].__name__ == name
