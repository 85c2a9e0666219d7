"""What the gradients of many clients cost, over one plain batch step on all their samples.

    python benchmarks/clients.py [--model resnet18] [--settings '{"norm": "group"}'] [--clients 100] [--rounds 5]

Baseline: `zero_grad; loss.backward(); optimizer.step()` on the batch of all samples, in turn with the clients'
gradients, layer by layer and by vmap (and, asked for with --loop, one client after the other). Medians of the ratios
of a round.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from setting import about, begin, draw, make_model, parser, write
from torch.nn.functional import cross_entropy

from taster import Learner
from taster.client_gradients import ClientGradients


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(options: dict[str, Any]) -> dict[str, Any]:
    clients = options["clients"]
    (batch,), classes = draw(options, clients, 1)
    model = make_model(options, tuple(batch.x.shape[1:]), classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    learner = Learner(model, optimizer, cross_entropy)
    view, counts = learner.view(), [1] * clients
    size = sum(value.numel() for value in view.trainable.values())
    out = torch.empty(clients, size)
    layers, vmap = ClientGradients(), ClientGradients(memory=options["vmap_clients"] * size * 4)
    vmap.method = "vmap"

    def plain() -> None:
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def one_by_one() -> None:
        for i in range(clients):
            optimizer.zero_grad()
            cross_entropy(model(batch.x[i : i + 1]), batch.y[i : i + 1]).backward()  # type: ignore[no-untyped-call]
            torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None], out=out[i])

    def in_way(gradients: ClientGradients) -> Callable[[], object]:
        return lambda: gradients(view, batch.x, batch.y, counts, out)

    view.params, view.buffers  # noqa: B018 (copied before anything is timed)
    ways = {"layers": in_way(layers), "vmap": in_way(vmap)}
    if options["loop"]:
        ways["loop"] = one_by_one
    plain()
    for work in ways.values():
        work()
    times: dict[str, list[float]] = {"plain": [], **{name: [] for name in ways}}
    for _ in range(options["rounds"]):
        model.zero_grad()
        times["plain"].append(seconds(plain))
        for name, work in ways.items():
            times[name].append(seconds(work))
    assert layers.method == "layers", layers.reason
    return {
        "clients": clients,
        "numbers": size,
        "rounds": options["rounds"],
        "plain_s": statistics.median(times["plain"]),
        **{
            f"{name}_over_plain": statistics.median(a / b for a, b in zip(times[name], times["plain"], strict=True))
            for name in ways
        },
    }


def main() -> None:
    asked = parser(__doc__)
    asked.set_defaults(settings='{"norm": "group"}')
    asked.add_argument("--clients", type=int, default=100)
    asked.add_argument("--vmap-clients", type=int, default=25, help="clients that vmap takes at a time")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--loop", action="store_true", help="one client after the other as well")
    options = begin(asked)
    found = measure(options)
    print(json.dumps({**about(options), **found}, indent=1))
    write(options, **found)


if __name__ == "__main__":
    main()
