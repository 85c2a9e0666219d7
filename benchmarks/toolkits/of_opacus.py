"""Opacus's gradients of single samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkits.timing import Way


class SampleGradients:
    """The gradients as Opacus leaves them, each parameter's by itself; put side by side when they are compared, which
    is not timed.

    Args:
        module: watches the model's layers.
    """

    def __init__(self, module: Any) -> None:
        self.parts = [p.grad_sample for p in module.parameters()]

    def double(self) -> Tensor:
        """[n, d], float64."""
        return torch.cat([part.flatten(1) for part in self.parts], 1).double()


def ways(make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> dict[str, Way]:
    """By hooks with a rule for each kind of layer, which is its default; and by `torch.func`."""

    def way(force_functorch: bool) -> Way:
        model = make().train()  # it watches in train mode alone, which for these models computes the same
        module = GradSampleModule(model, loss_reduction="sum", force_functorch=force_functorch)

        def ready() -> Callable[[], SampleGradients]:
            module.zero_grad(set_to_none=True)

            def work() -> SampleGradients:
                cross_entropy(module(x), y, reduction="sum").backward()  # type: ignore[no-untyped-call]
                return SampleGradients(module)

            return work

        return ready

    return {"Opacus": way(False), "Opacus (functorch)": way(True)}
