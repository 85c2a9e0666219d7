"""Numbers read from the device: exact, whatever their types, by one transfer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from taster.core import host
from taster.core.host import Readings, to_host


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    made: list[list[Tensor]] = []
    fetch = host._fetched

    def counted(tensors: list[Tensor]) -> list[Any]:
        made.append(tensors)
        return fetch(tensors)

    monkeypatch.setattr(host, "_fetched", counted)
    return made


def test_tensors_of_all_kinds_arrive_exactly_by_one_transfer(transfers: list[list[Tensor]]) -> None:
    given = [
        torch.tensor(0.1),
        torch.tensor([True, False, True]),
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor([2**53 + 1, -1]),
        torch.arange(6).view(2, 3).t(),
        torch.tensor([1.5, -2.0], dtype=torch.bfloat16).expand(3, 2),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1.5, 2.0]).to(torch.float8_e4m3fn),
        torch.empty(0),
        torch.tensor(7.0, requires_grad=True) * 2,
    ]
    assert to_host(*given) == [tensor.tolist() for tensor in given]
    assert len(transfers) == 1


def test_nan_and_infinity_arrive_as_such() -> None:
    nan, infinities = to_host(torch.tensor(math.nan), torch.tensor([math.inf, -math.inf]))
    assert math.isnan(nan)
    assert infinities == [math.inf, -math.inf]


def test_one_tensor_and_none(transfers: list[list[Tensor]]) -> None:
    assert to_host(torch.tensor(3)) == [3]
    assert to_host() == []
    assert len(transfers) == 1


def test_readings_are_fetched_at_once_and_told_in_order(transfers: list[list[Tensor]]) -> None:
    readings, told = Readings(), []
    readings.add([torch.tensor(1)], told.append)
    readings.add([torch.tensor(2.5), torch.tensor([True])], told.append)
    assert told == []
    readings.read()
    assert told == [[1], [2.5, [True]]]
    readings.read()
    assert len(transfers) == 1
