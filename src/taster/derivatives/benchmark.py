"""Which way is the fastest for a model on the machine at hand, by trying each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.types import Batch, Tensors
from taster.derivatives import autodiff as exact
from taster.derivatives.algebra import Normalise, combined
from taster.derivatives.autodiff import LossAt
from taster.derivatives.derivatives import LEAST_AGREEMENT, Derivatives, agreement
from taster.derivatives.method import Way


def exact_ways(images: bool) -> list[Way]:
    """Automatic differentiation in float32. `images` adds the channels-last layout, for samples [n, c, h, w]."""
    layouts = (False, True) if images else (False,)
    return [Way(method, "float32", last) for method in ("double_backward", "forward_over_reverse") for last in layouts]


def fast_ways(images: bool) -> list[Way]:
    """All ways."""
    layouts = (False, True) if images else (False,)
    held = [Way("held_difference", precision, last) for precision in ("float32", "bfloat16") for last in layouts]
    return [*exact_ways(images), *held, *[Way("double_backward", "bfloat16", last) for last in layouts]]


@dataclass(frozen=True)
class Measurement:
    """What came of trying a way.

    Attributes:
        way: that was tried.
        seconds: of one mixed derivative; infinite where the way cannot differentiate the model.
        agreement: with double backward in float32, see `taster.derivatives.agreement`.
    """

    way: Way
    seconds: float
    agreement: float


def measure(
    loss: LossAt,
    params: Mapping[str, Tensor],
    batch: Batch,
    direction: Tensors,
    ways: Sequence[Way],
    normalise: Normalise = "none",
    repeats: int = 2,
) -> list[Measurement]:
    """Tries each way at the mixed derivative of a batch towards a direction.

    Args:
        loss: L.
        params: θ.
        batch: samples and labels, as many as there will be.
        direction: v.
        ways: to try.
        normalise: how the inner product is taken.
        repeats: times each is run after a first run that does not count; the fastest is taken.
    """
    towards = combined([(1.0, direction)], normalise)
    truth = exact.DoubleBackward().mixed_derivative(loss, params, batch, towards, normalise)
    found = []
    for way in ways:
        derivatives = Derivatives(way)
        derivative = derivatives.mixed(loss, params, [(1.0, direction)], normalise)
        share = agreement(derivative(batch.x, batch.y), truth)
        times = [] if derivatives.fallbacks else [_seconds(derivative, batch) for _ in range(repeats)]
        found.append(Measurement(way, min(times, default=float("inf")), share))
    return found


def fastest(measurements: Sequence[Measurement]) -> Way:
    """The fastest of those that agree; double backward where none does."""
    good = [m for m in measurements if m.agreement >= LEAST_AGREEMENT and m.seconds < float("inf")]
    return min(good, key=lambda m: m.seconds).way if good else Way("double_backward")


def _seconds(derivative: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> float:
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    derivative(batch.x, batch.y)
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
