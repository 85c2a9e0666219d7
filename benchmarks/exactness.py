"""How far automatic differentiation in float32 is from float64, and what of it is units across a kink.

    python benchmarks/exactness.py --checkpoint FILE --data CIFAR10 [--out FILE]

The mixed derivative of a batch of 100 towards a validation gradient, plain and through per-tensor cosines, by double
backward and (plain) forward over reverse in float32. Relative error: norm of the difference over norm of the float64
result; "held" is the same against float64 whose ReLUs and max-poolings take the sides that float32 took.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import setting
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from taster import Batch
from taster.core.types import Tensors
from taster.derivatives import Normalize, normalized
from taster.derivatives.activation_pattern import ActivationPattern
from taster.derivatives.autodiff import Differentiator, DoubleBackward, ForwardOverReverse, LossFn, gradient

SIZE = 100
METHODS: dict[str, Callable[[], Differentiator]] = {
    "double_backward": DoubleBackward,
    "forward_over_reverse": ForwardOverReverse,
}


def loss_of(model: torch.nn.Module, sides: Callable[[], Any]) -> LossFn:
    def loss(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        with sides():
            return cross_entropy(functional_call(model, {**params, **dict(model.named_buffers())}, (x,)), y)

    return loss


def main() -> None:
    parser = setting.parser(__doc__)
    options = setting.begin(parser)
    (clean, other), classes = setting.draw(options, SIZE, 2)
    narrow = setting.make_model(options, tuple(clean.x.shape[1:]), classes)
    wide = setting.make_model(options, tuple(clean.x.shape[1:]), classes).double()
    params = {name: p.detach() for name, p in narrow.named_parameters()}
    wide_params = {name: p.detach() for name, p in wide.named_parameters()}
    wide_clean = Batch(clean.x.double(), clean.y)
    towards = normalized(gradient(loss_of(narrow, nullcontext), params, other), "per_tensor")
    wide_towards = {name: v.double() for name, v in towards.items()}
    branches = ActivationPattern()
    with torch.no_grad():
        loss_of(narrow, branches.recording)(params, clean.x, clean.y)
    rows = []
    print("| derivative | method | relative error | held |\n|---|---|---:|---:|")
    cases: list[tuple[Normalize, list[str]]] = [("none", list(METHODS)), ("per_tensor", ["double_backward"])]
    for how, methods in cases:
        free, held = (
            DoubleBackward().mixed_derivative(loss_of(wide, sides), wide_params, wide_clean, wide_towards, how)
            for sides in (nullcontext, branches.replaying)
        )
        for method in methods:
            found = METHODS[method]().mixed_derivative(loss_of(narrow, nullcontext), params, clean, towards, how)
            errors = [float((found.double() - truth).norm() / truth.norm()) for truth in (free, held)]
            rows.append({"normalize": how, "method": method, "error": errors[0], "held": errors[1]})
            print(f"| {how} | {method} | {errors[0]:.1e} | {errors[1]:.1e} |")
    setting.write(options, rows=rows)


if __name__ == "__main__":
    main()
