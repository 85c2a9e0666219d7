"""Gram matrices, and which rows are finite."""

from __future__ import annotations

import math

import pytest
import torch

from taster.core.param_vectors import finite_rows
from taster.stats.pairwise import gram_matrix


def test_the_gram_matrix_is_exact() -> None:
    values = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram_matrix(values), values.double() @ values.double().t(), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("m", [1, 23, 24, 25, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_make_up_the_whole_gram_matrix(m: int, dtype: torch.dtype) -> None:
    values = torch.randn(m, 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = gram_matrix(values)
    assert torch.equal(found, found.t())
    torch.testing.assert_close(found, values.double() @ values.double().t(), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_rows_are_those_without_nan_and_infinity_however_large_their_numbers(dtype: torch.dtype) -> None:
    values = torch.ones(6, 70, dtype=dtype)
    values[1, 3] = math.nan
    values[2, 69] = math.inf
    values[3, :2] = torch.tensor([math.inf, -math.inf])
    values[4] = torch.finfo(dtype).max  # the sum is infinite, no number is
    values[5, 0] = -math.inf
    assert finite_rows(values).tolist() == [True, False, False, False, True, False]
