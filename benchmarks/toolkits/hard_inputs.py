"""Updates that are hard to aggregate, as float32 matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor


def normal(clients: int, size: int, generator: Generator) -> Tensor:
    """Clients whose changes have lengths from one to two, in random order: who is central is no accident."""
    scale = torch.linspace(1, 2, clients)[torch.randperm(clients, generator=generator)]
    return torch.randn(clients, size, generator=generator) * scale[:, None]


def shared_weights(clients: int, size: int, generator: Generator) -> Tensor:
    """Whole models, as clients of a federation send them: weights of about 0.1, which differ by about 1e-4."""
    return 0.1 * torch.randn(size, generator=generator) + 1e-4 * normal(clients, size, generator)


def shared_buffer(clients: int, size: int, generator: Generator) -> Tensor:
    """Small changes beside one number that is 10,000 for everybody, as a counter or a running variance may be."""
    values = 1e-2 * normal(clients, size, generator)
    values[:, 0] = 1e4
    return values


def duplicates(clients: int, size: int, generator: Generator) -> Tensor:
    """Each update twice."""
    return normal((clients + 1) // 2, size, generator).repeat(2, 1)[:clients].contiguous()


def huge(clients: int, size: int, generator: Generator) -> Tensor:
    """One client's numbers are of 1e25, whose squares float32 does not hold."""
    values = normal(clients, size, generator)
    values[1] *= 1e25
    return values


def not_a_number(clients: int, size: int, generator: Generator) -> Tensor:
    """One client's first number is no number."""
    values = normal(clients, size, generator)
    values[1, 0] = torch.nan
    return values


def infinite(clients: int, size: int, generator: Generator) -> Tensor:
    """One client's first number is infinite."""
    values = normal(clients, size, generator)
    values[1, 0] = torch.inf
    return values


FINITE: dict[str, Callable[[int, int, Generator], Tensor]] = {
    "normal": normal,
    "whole models": shared_weights,
    "a large common number": shared_buffer,
    "duplicates": duplicates,
    "one client at 1e25": huge,
}
NOT_FINITE: dict[str, Callable[[int, int, Generator], Tensor]] = {
    "one NaN": not_a_number,
    "one infinity": infinite,
}
