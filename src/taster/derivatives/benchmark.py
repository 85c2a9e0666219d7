"""Which way is the fastest for a model on the machine at hand, by trying each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.types import Batch, Tensors
from taster.derivatives import autodiff as exact
from taster.derivatives.algebra import Normalize, weighted_sum
from taster.derivatives.autodiff import LossFn
from taster.derivatives.derivatives import MIN_SIGN_AGREEMENT, Derivatives, sign_agreement
from taster.derivatives.method import DiffMethod


def exact_methods(images: bool) -> list[DiffMethod]:
    """Automatic differentiation in float32. `images` adds the channels-last layout, for samples [n, c, h, w]."""
    layouts = (False, True) if images else (False,)
    return [
        DiffMethod(method, "float32", last)
        for method in ("double_backward", "forward_over_reverse")
        for last in layouts
    ]


def all_methods(images: bool) -> list[DiffMethod]:
    """All ways."""
    layouts = (False, True) if images else (False,)
    held = [
        DiffMethod("finite_difference", precision, last) for precision in ("float32", "bfloat16") for last in layouts
    ]
    return [*exact_methods(images), *held, *[DiffMethod("double_backward", "bfloat16", last) for last in layouts]]


@dataclass(frozen=True)
class Measurement:
    """What came of trying a way.

    Attributes:
        way: that was tried.
        seconds: of one mixed derivative; infinite where the way cannot differentiate the model.
        agreement: with double backward in float32, see `taster.derivatives.agreement`.
    """

    method: DiffMethod
    seconds: float
    sign_agreement: float


def measure(
    loss: LossFn,
    params: Mapping[str, Tensor],
    batch: Batch,
    direction: Tensors,
    methods: Sequence[DiffMethod],
    normalize: Normalize = "none",
    repeats: int = 2,
) -> list[Measurement]:
    """Tries each way at the mixed derivative of a batch towards a direction.

    Args:
        loss: L.
        params: θ.
        batch: samples and labels, as many as there will be.
        direction: v.
        ways: to try.
        normalize: how the inner product is taken.
        repeats: times each is run after a first run that does not count; the fastest is taken.
    """
    towards = weighted_sum([(1.0, direction)], normalize)
    truth = exact.DoubleBackward().mixed_derivative(loss, params, batch, towards, normalize)
    found = []
    for way in methods:
        derivatives = Derivatives(way)
        derivative = derivatives.mixed(loss, params, [(1.0, direction)], normalize)
        share = sign_agreement(derivative(batch.x, batch.y), truth)
        times = [] if derivatives.fallbacks else [_seconds(derivative, batch) for _ in range(repeats)]
        found.append(Measurement(way, min(times, default=float("inf")), share))
    return found


def fastest(measurements: Sequence[Measurement]) -> DiffMethod:
    """The fastest of those that agree; double backward where none does."""
    good = [m for m in measurements if m.sign_agreement >= MIN_SIGN_AGREEMENT and m.seconds < float("inf")]
    return min(good, key=lambda m: m.seconds).method if good else DiffMethod("double_backward")


def _seconds(derivative: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> float:
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    derivative(batch.x, batch.y)
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
