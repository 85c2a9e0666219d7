"""What is measured of a model that was trained on a poisoned set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taster import Batch
from taster.offline import (
    Removal,
    accuracy,
    certified_accuracy,
    certified_budgets,
    mean_loss,
    recall_by_class,
)


class Says:
    """Predicts what the samples hold, with a radius that they hold as well."""

    def outputs(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x[:, 0].long(), 3).double()

    def radius(self, x: Tensor) -> Tensor:
        return x[:, 1].long()


TEST = Batch(torch.tensor([[0, 0], [0, 3], [1, 7], [1, 7], [0, 5]]).float(), torch.tensor([0, 0, 1, 1, 1]))


def test_accuracy_and_recall() -> None:
    assert accuracy(Says(), TEST) == pytest.approx(80)
    assert recall_by_class(Says(), TEST, 3) == [100, pytest.approx(200 / 3), None]


def test_what_is_certified_is_right_and_withstands_as_much() -> None:
    found = certified_accuracy(Says(), TEST, [0, 1, 3, 4, 8])
    assert found == {0: 80, 1: pytest.approx(60), 3: pytest.approx(60), 4: pytest.approx(40), 8: 0}
    assert certified_budgets(Says(), TEST) == list(range(8))


def test_what_was_left_out() -> None:
    weights, poisoned = torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([True, False, True, False])
    assert Removal.of(weights, poisoned) == Removal(2, 50.0, 50.0)
    assert Removal.of(torch.ones(4), poisoned) == Removal(0, None, 0.0)
    assert Removal.of(weights, torch.zeros(4, dtype=torch.bool)) == Removal(2, 0.0, None)


def test_losses_of_a_part() -> None:
    right = torch.tensor([True, True, True, True, False])
    assert mean_loss(Says(), TEST, right) == pytest.approx(0.5514, abs=1e-4)
    assert mean_loss(Says(), TEST, ~right) == pytest.approx(1.5514, abs=1e-4)
    assert mean_loss(Says(), TEST, torch.zeros(5, dtype=torch.bool)) is None
