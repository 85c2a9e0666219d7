"""Two processes train one model, one of them is fed poison, and one verdict holds for both.

torchrun --nproc_per_node 2 examples/ddp.py
"""

import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import taster


def batches(seed: int, count: int, n: int = 64):
    """Samples of ten classes around places that all processes know."""
    places = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        y = torch.randint(0, 10, (n,), generator=g)
        yield places[y] + 0.7 * torch.randn(n, 32, generator=g), y


def main() -> None:
    """Trains in one of the processes."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    # The same trusted samples in every process.
    probe = taster.Batch(*next(batches(seed=99, count=1, n=1000)))
    guarded = taster.Guarded(model, optimizer, taster.guard(probe), loss=cross_entropy)

    for i, (x, y) in enumerate(batches(seed=1 + rank, count=40)):
        if rank == 1 and 20 <= i < 28:
            x, y = 5 * x, (y + 1) % 10  # what this process reads is poisoned for a while
        with guarded.step(x, y) as step:  # what is refused is logged, by the first process
            optimizer.zero_grad()
            step.loss = cross_entropy(model(x), y)
            step.loss.backward()
            optimizer.step()

    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    found = [torch.empty_like(weights) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, weights)
    if rank == 0:
        print(f"{guarded.counters['committed']} of {guarded.steps} updates were kept")
        same = all(torch.equal(weights, other) for other in found)
        print(f"accuracy {guarded.view().accuracy(probe.x, probe.y):.1f}, the same weights in both: {same}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
