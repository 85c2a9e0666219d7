"""Edits: how many values of a sample may differ, and which of too many stay."""

from __future__ import annotations

import pytest
import torch

from taster.errors import AttackError
from taster.perturbations.edits import Edits


def test_the_first_changes_stay_and_keep_to_the_range() -> None:
    clean = torch.tensor([[0.0, 0.5, 1.0, 0.2], [0.1, 0.2, 0.3, 0.4]])
    x = torch.tensor([[2.0, 0.5, 0.0, 0.9], [0.1, float("nan"), 0.3, -1.0]])
    found = Edits(2).project(x, clean)
    assert torch.allclose(found, torch.tensor([[1.0, 0.5, 0.0, 0.2], [0.1, 0.2, 0.3, 0.0]]))
    assert torch.equal(Edits(0).project(x, clean), clean)


def test_ids_stay_ids_and_values_out_of_range_that_nobody_changed_stay() -> None:
    clean = torch.tensor([[9, 1, 2]])
    found = Edits(1, low=0, high=4).project(torch.tensor([[9, 7, 3]]), clean)
    assert found.dtype == torch.int64
    assert found.tolist() == [[9, 4, 2]]


def test_images_are_counted_by_pixel() -> None:
    clean, g = torch.zeros(5, 2, 3, 3), torch.Generator().manual_seed(0)
    found = Edits(4).project(torch.rand(5, 2, 3, 3, generator=g) + 0.1, clean)
    assert (found != clean).flatten(1).sum(1).tolist() == [4] * 5


@pytest.mark.parametrize(("given", "message"), [({"most": -1}, "edits: got -1"), ({"most": 1, "low": 1.0}, "range")])
def test_odd_edits_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        Edits(**given)  # type: ignore[arg-type]
