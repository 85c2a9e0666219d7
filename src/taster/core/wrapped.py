"""Optimizers: whose step it is that updates, where one is inside another, and what it updates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside wrappers of it, those of Accelerate say, whose step is the one that updates."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    return optimizer


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """All parameters that an optimizer holds."""
    for group in optimizer.param_groups:
        yield from group["params"]
