"""The gradient of each sample by itself: Opacus against taster's `ClientGradients` with one sample a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Learner
from taster.client_gradients import ClientGradients
from taster.models import mlp, resnet18, small_cnn
from toolkits.installed import version_of
from toolkits.timing import Way, compare

Make = Callable[[], nn.Module]

CASES: dict[str, tuple[Make, tuple[int, int, int], tuple[int, ...]]] = {
    "mlp": (lambda: mlp((1, 28, 28), 10), (1, 28, 28), (32, 256)),
    "small_cnn, group norm": (lambda: small_cnn((3, 32, 32), 10, norm="group"), (3, 32, 32), (32, 128)),
    "resnet18, group norm": (lambda: _not_in_place(resnet18((3, 32, 32), 10, norm="group")), (3, 32, 32), (8,)),
}
"""Models, the shape of their samples, and batch sizes."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each model, batch size and way; `error` against float64, one sample after the other."""
    rows = []
    for name, (make, shape, sizes) in CASES.items():
        for size in sizes:
            generator = torch.Generator().manual_seed(0)
            x = torch.rand(size, *shape, generator=generator)
            y = torch.randint(0, 10, (size,), generator=generator)
            torch.manual_seed(0)
            model = make().eval()
            truth = _one_by_one(make, model, x, y)
            found = compare(_ways(model, make, x, y), rounds)
            for way, figures in found.items():
                result = figures.pop("result", None)
                if result is not None:
                    error = (result.double() - truth).norm(dim=1) / truth.norm(dim=1)
                    figures["error"] = float(error.max())
                if "seconds" in figures:
                    figures["over_taster"] = figures["seconds"] / found["taster"]["seconds"]
                row = {"model": name, "samples": size, "numbers": truth.shape[1], "way": way, **figures}
                rows.append(row)
                print(_line(row), flush=True)
    return rows


def _not_in_place(model: nn.Module) -> nn.Module:
    """With ReLUs that leave their input, as Opacus's hooks need it."""
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return model


def _one_by_one(make: Make, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    wide = make().double().eval()
    wide.load_state_dict(model.state_dict())
    rows = []
    for i in range(len(x)):
        loss = cross_entropy(wide(x[i : i + 1].double()), y[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(wide.parameters()))]))
    return torch.stack(rows)


def _ways(model: nn.Module, make: Make, x: Tensor, y: Tensor) -> dict[str, Way]:
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.01), cross_entropy)
    view, gradients, counts = learner.view(), ClientGradients(), [1] * len(x)
    gradients(view, x, y, counts)  # chooses its method
    ways: dict[str, Way] = {"taster": lambda: lambda: gradients(view, x, y, counts)[0]}
    if version_of("opacus"):
        from toolkits import of_opacus

        def copy() -> nn.Module:
            found = make().eval()
            found.load_state_dict(model.state_dict())
            return found

        ways |= of_opacus.ways(copy, x, y)
    return ways


def _line(row: dict[str, Any]) -> str:
    start = f"| {row['model']} | {row['samples']} | {row['way']} |"
    if "seconds" not in row:
        return f"{start} {row['error']} |"
    memory = "?" if row["memory_MiB"] is None else f"{row['memory_MiB']:.0f}"
    return f"{start} {1000 * row['seconds']:.1f} | {row['over_taster']:.2f} | {memory} | {row['error']:.1e} |"
