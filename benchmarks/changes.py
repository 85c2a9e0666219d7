"""How well held differences agree, by the share that the gradient is made to change, and what holding kinks is worth.

    python benchmarks/changes.py --checkpoint FILE --data CIFAR10 [--out FILE]

A PGD step through per-tensor cosines at points on the way of an attack (ε = 0.1, C = 10), against double backward in
float32: shares of signs right, each weighted by the size of the true value, the worst of the points; "free" is the same
difference with ReLU and max-pooling not held.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import setting
import torch
from torch.nn.functional import cross_entropy

from taster import Batch
from taster.core.functional_model import autocast
from taster.core.learner import Learner
from taster.core.types import Tensors
from taster.derivatives import normalized, sign_agreement
from taster.derivatives.activation_pattern import ActivationPattern
from taster.derivatives.autodiff import DoubleBackward, gradient
from taster.derivatives.finite_differences import FrozenActivationDifferences
from taster.perturbations.pgd import LpBall

CHANGES = {
    "float32": (1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.05, 0.1, 0.25, 0.5),
    "bfloat16": (0.03, 0.06, 0.12, 0.2, 0.25, 0.5, 1.0),
}
EPSILON, STEPS, SIZE, POINTS = 0.1, 10, 100, (0, 1, 4)


def free(_: ActivationPattern) -> AbstractContextManager[object]:
    return nullcontext()


def main() -> None:
    parser = setting.parser(__doc__)
    options = setting.begin(parser)
    (clean, other), classes = setting.draw(options, SIZE, 2)
    model = setting.make_model(options, tuple(clean.x.shape[1:]), classes)
    view = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy).view()
    params, ball = view.trainable, LpBall("linf", EPSILON)

    def loss(at: Tensors, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return view.loss(x, y, params=at)

    towards = normalized(gradient(loss, params, other), "per_tensor")
    x, points = clean.x, []
    for step in range(max(POINTS) + 1):
        truth = DoubleBackward().mixed_derivative(loss, params, Batch(x, clean.y), towards, "per_tensor")
        if step in POINTS:
            points.append((x, truth))
        x = ball.step(x, truth, 2 * EPSILON / STEPS, clean.x)
    rows = []
    print("| precision | kinks | change | signs % | weighted % |\n|---|---|---:|---:|---:|")
    for precision, changes in CHANGES.items():

        def there(at: Tensors, x: torch.Tensor, y: torch.Tensor, precision: str = precision) -> torch.Tensor:
            with autocast(x.device, precision):  # type: ignore[arg-type]
                return loss(at, x, y).float()

        for kinks in ("held", "free"):
            for change in changes:
                shares, signs = [], []
                with (
                    mock.patch.multiple(ActivationPattern, recorded=free, held=free)
                    if kinks == "free"
                    else nullcontext()
                ):
                    differences = FrozenActivationDifferences(change)
                    for x, truth in points:
                        batch = Batch(x, clean.y)
                        found = differences.mixed_derivative(there, params, batch, towards, "per_tensor")
                        shares.append(sign_agreement(found, truth))
                        signs.append(float((found.sign() == truth.sign()).float().mean()))
                row = {"precision": precision, "kinks": kinks, "change": change}
                rows.append({**row, "signs": min(signs), "weighted": min(shares)})
                print(f"| {precision} | {kinks} | {change} | {100 * min(signs):.1f} | {100 * min(shares):.1f} |")
    setting.write(options, rows=rows)


if __name__ == "__main__":
    main()
