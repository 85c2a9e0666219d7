"""Optimizers inside others: whose step it is that updates."""

from __future__ import annotations

import torch


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside wrappers of it, those of Accelerate say, whose step is the one that updates."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    return optimizer
