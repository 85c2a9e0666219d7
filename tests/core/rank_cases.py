"""What each of two processes does in the tests of `taster.core.ranks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.core.pair import digest
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DataParallel, DistributedDataParallel

import taster
from taster import Batch, Guard, Guarded, Learner, SnapshotBuffer
from taster.defences import clipping, probe_gate, retry_low_score_half


def network(batch_norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(6) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Linear(8, 6), middle, nn.ReLU(), nn.Linear(6, 3))


def wrapped(batch_norm: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = DistributedDataParallel(network(batch_norm))
    return model, torch.optim.SGD(model.parameters(), 0.3, momentum=0.5)


def data(rank: int, step: int, n: int = 8) -> Batch:
    """Samples of three classes around places of their own."""
    g = torch.Generator().manual_seed(1000 * rank + step)
    y = torch.randint(0, 3, (n,), generator=g)
    return Batch(2 * torch.eye(3, 8)[y] + 0.3 * torch.randn(n, 8, generator=g), y)


def poisoned(batch: Batch) -> Batch:
    return Batch(20 * batch.x, (batch.y + 1) % 3)


def bits(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(plain, nn.Module)
    return digest([plain.state_dict(), optimizer.state_dict()])


Make = Callable[[Batch], taster.StepRecord]


def stepper(api: str, guard: Guard, batch_norm: bool = True, **options: Any) -> tuple[Any, Make]:
    """A learner or `Guarded`, and how it makes a step."""
    model, optimizer = wrapped(batch_norm)
    if api == "learner":
        learner = Learner(model, optimizer, cross_entropy, guard, **options)
        return learner, learner.step
    guarded = Guarded(model, optimizer, guard, loss=cross_entropy, **options)

    def make(batch: Batch) -> taster.StepRecord:
        with guarded.step(batch) as step:
            optimizer.zero_grad()
            left = step.batch
            step.loss = cross_entropy(model(left.x), left.y)
            step.loss.backward()
            optimizer.step()
        assert step.record is not None
        return step.record

    return guarded, make


def told(record: taster.StepRecord) -> tuple[Any, ...]:
    """What all processes must agree on."""
    verdict = record.verdict
    return (
        record.step,
        str(record.loss),
        verdict.action.name,
        verdict.steps,
        verdict.stage,
        verdict.reason,
        str(record.gradient_norm_after),
        record.attempts,
    )


def run(owner: Any, make: Make, batches: list[Batch]) -> list[tuple[Any, ...]]:
    return [(*told(make(batch)), bits(owner.model, owner.optimizer)) for batch in batches]


def differing_gates(rank: int, api: str, batch_norm: bool) -> Any:
    """Gates that speak in one process alone."""

    def gate(update: taster.CandidateUpdate) -> taster.Verdict:
        assert update.samples == 16
        if update.step in (2, 5) and rank == 1:
            return taster.reject("process 1 says no", evidence={"rank": rank})
        if update.step == 7:
            return taster.rewind(2, "process 0 goes back") if rank == 0 else taster.reject("process 1 refuses")
        return taster.COMMIT

    guard = Guard(gates=[gate]) + clipping(max_norm=1.0)
    owner, make = stepper(api, guard, batch_norm, snapshots=SnapshotBuffer(capacity=4))
    return run(owner, make, [data(rank, i) for i in range(10)])


def poison_in_one(rank: int, api: str, batch_norm: bool) -> Any:
    """A probe in each process; what process 1 learns from step 14 to 17 is poisoned."""
    probe = data(9, 0, n=400)
    guard = probe_gate(probe, max_rewind=4, seed=5 + rank)  # the order of looking is the first process's in both
    batches = [data(rank, i) for i in range(20)]
    if rank == 1:
        batches[14:18] = map(poisoned, batches[14:18])
    owner, make = stepper(api, guard, batch_norm)
    found = run(owner, make, batches)
    assert guard.state_dict()[0]["seed"] == 5
    return found, owner.view().accuracy(probe.x, probe.y)


def plain_loop(rank: int, api: str, batch_norm: bool) -> Any:
    """An empty guard, and the same loop without one; the last batches are uneven."""
    batches = [data(rank, i) for i in range(6)] + [data(rank, 6, n=3 + 4 * rank)]
    owner, make = stepper(api, Guard(), batch_norm)
    model, optimizer = wrapped(batch_norm)
    found = []
    for batch in batches:
        assert make(batch).verdict.committed
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
        params = [[p.detach() for p in m.parameters()] for m in (owner.model, model)]
        found.append((*map(digest, params), bits(owner.model, owner.optimizer), bits(model, optimizer)))
    return found


def screened(rank: int, api: str, what: str) -> Any:
    """A screen that acts in process 1 alone, at the third step."""

    def screen(admitted: Any, view: Any) -> Any:
        if rank == 0 or view.step != 2:
            return admitted
        if what == "raises":
            raise ValueError("the screen is broken")
        keep = {"drops": 0, "one left": 1}[what]
        return admitted.drop(torch.arange(len(admitted.batch)) >= keep, "all of it is bad")

    owner, make = stepper(api, Guard(screens=[screen]))
    return run(owner, make, [data(rank, i) for i in range(5)])


def failing_gate(rank: int, api: str) -> Any:
    """A gate that raises in process 1 alone, at the third step; the next step is made."""

    def gate(update: Any) -> taster.Verdict:
        if rank == 1 and update.step == 2 and not failed:
            failed.append(True)
            raise ValueError("the gate is broken")
        return taster.COMMIT

    failed: list[bool] = []
    owner, make = stepper(api, Guard(gates=[gate]))
    for i in range(2):
        make(data(rank, i))
    before, text = bits(owner.model, owner.optimizer), ""
    try:
        make(data(rank, 2))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    assert bits(owner.model, owner.optimizer) == before
    return text, run(owner, make, [data(rank, 3)])


def not_finite(rank: int, api: str, where: str) -> Any:
    """NaN in process 1 alone: in its samples, or in its loss."""
    owner, make = stepper(api, Guard())
    found = []
    for i in range(5):
        batch = data(rank, i)
        if rank == 1 and i == 2 and where == "samples":
            batch = Batch(batch.x * float("nan"), batch.y)
        if rank == 1 and i == 2 and where == "loss":
            batch = Batch(batch.x * 1e30, batch.y)
            batch.x[:, 0] = 3e38
        found += run(owner, make, [batch])
    return found


def scaled(rank: int) -> Any:
    """A gradient that overflows, and one loss that is not finite in process 1 alone: the scale stays common."""
    model, optimizer = wrapped()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    learner = Learner(model, optimizer, cross_entropy, precision="float16", scaler=scaler)
    found = []
    for i in range(6):
        batch = data(rank, i)
        if rank == 1 and i in (1, 3):
            batch = Batch(batch.x, batch.y, 1e30 if i == 1 else float("inf"))
        found += [(*run(learner, learner.step, [batch])[0], scaler.get_scale())]
    return found


def salvaged(rank: int, samples_in_one: int) -> Any:
    """Half of a refused batch is tried again, in both; in neither where one of them has too few."""

    def gate(update: taster.CandidateUpdate) -> taster.Verdict:
        return taster.reject("no") if update.step == 2 and update.attempt == 0 else taster.COMMIT

    guard = Guard(gates=[gate]) + retry_low_score_half(data(9, 0, n=100), min_samples=3)
    owner, make = stepper("learner", guard)
    return run(owner, make, [data(rank, i, n=samples_in_one if rank == 1 else 8) for i in range(4)])


def corrected(rank: int, in_both: bool) -> Any:
    """A correction of a refused batch is tried where each process has one; where one has none, the next screen's."""

    def shrink(screened: Any, view: Any) -> Any:
        if not in_both and rank == 1:
            return screened
        batch = screened.batch
        return screened.correct(Batch(batch.x / 2, batch.y), torch.ones(len(batch), dtype=torch.bool))

    def gate(update: taster.CandidateUpdate) -> taster.Verdict:
        return taster.reject("no") if update.step == 2 and update.attempt == 0 else taster.COMMIT

    guard = Guard(gates=[gate], salvage=[shrink]) + retry_low_score_half(data(9, 0, n=100), min_samples=3)
    owner, make = stepper("learner", guard)
    return run(owner, make, [data(rank, i) for i in range(4)])


def other_probe(rank: int, what: str) -> Any:
    probe = data(rank if what == "data" else 9, 0, n=60)
    guard = probe_gate(probe) if what == "data" or rank == 0 else Guard()
    owner, make = stepper("learner", guard)
    return run(owner, make, [data(rank, 0)])


def renewed_in_one(rank: int) -> Any:
    """The owner replaces the probe in one process alone."""
    owner, make = stepper("learner", probe_gate(data(9, 0, n=60)))
    make(data(rank, 0))
    if rank == 1:
        owner.guard.set_trusted_data(data(8, 0, n=60))
    return run(owner, make, [data(rank, 1)])


def alone(rank: int, group: str) -> Any:
    """A model outside DistributedDataParallel."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options: dict[str, Any] = {} if group == "auto" else {"process_group": None}
    learner = Learner(model, optimizer, cross_entropy, **options)
    return learner.step(data(rank, 0)).verdict.committed, learner.state.ranks.size


def by_hand(rank: int) -> Any:
    """Gradients averaged by the loop itself: process_group=WORLD."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    gate = (lambda update: taster.reject("no")) if rank == 1 else (lambda update: taster.COMMIT)
    guarded = Guarded(model, optimizer, Guard(gates=[gate]), process_group=distributed.group.WORLD)
    before = bits(model, optimizer)
    with guarded.step() as step:
        batch = data(rank, 0)
        step.loss = cross_entropy(model(batch.x), batch.y)
        step.loss.backward()
        for p in model.parameters():
            distributed.all_reduce(p.grad)
        optimizer.step()
    assert step.refused
    return bits(model, optimizer) == before, told(step.record)  # type: ignore[arg-type]


def sharded(rank: int, how: str) -> Any:
    model = network(batch_norm=False)
    if how == "fully_shard":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    else:
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Learner(model, optimizer, cross_entropy).step(data(rank, 0)).verdict.committed


def several(rank: int, how: str) -> Any:
    """A pair of models of which both, or one, are wrapped; compiled ones count as what they are made from."""
    first, second = network(), network()
    if how == "compiled":
        models: list[nn.Module] = [torch.compile(DistributedDataParallel(first), backend="eager")]  # type: ignore[list-item]
    elif how == "frozen beside":
        models = [DistributedDataParallel(first), second.requires_grad_(False)]
    else:
        models = [DistributedDataParallel(first), second]
    optimizers = [torch.optim.SGD(p, 0.1) for m in models if (p := [q for q in m.parameters() if q.requires_grad])]
    return Guarded(models, optimizers).state.ranks.size


def shared_out(rank: int, samples: int) -> Any:
    """Each process measures its part, and has the rows of all."""
    model, optimizer = wrapped()
    ranks = Learner(model, optimizer, cross_entropy).state.ranks
    own = ranks.part(samples)
    values = torch.arange(samples).float()
    rows = {"values": values[own], "even": values[own] % 2 == 0, "pairs": torch.stack([values, -values], 1)[own]}
    found = ranks.gather_rows(rows, samples)
    assert torch.equal(found["values"], values)
    assert torch.equal(found["even"], values % 2 == 0)
    assert found["even"].dtype is torch.bool
    assert torch.equal(found["pairs"], torch.stack([values, -values], 1))
    return own.stop - own.start


def elsewhere(rank: int, inside: bool) -> Any:
    """One process asks for rows while the other one fails, here or inside what both do together."""
    model, optimizer = wrapped()
    ranks = Learner(model, optimizer, cross_entropy).state.ranks

    def measure() -> Any:
        if rank == 1:
            raise ValueError("out of memory, say")
        return ranks.gather_rows({"values": torch.ones(2)}, 4)

    def within() -> Any:
        return ranks.together("the measurement", measure)

    return ranks.together("the gates", within if inside else measure)


def own_buffers(rank: int) -> Any:
    """Without broadcast_buffers each process keeps its own."""
    model = DistributedDataParallel(network(), broadcast_buffers=False)
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy)
    learner.step(data(rank, 0))
    return digest(dict(model.named_buffers()))


def updates_differ(rank: int) -> Any:
    """Process 1 leaves out its update."""
    model, optimizer = wrapped()
    guarded = Guarded(model, optimizer, Guard())
    batch = data(rank, 0)
    with guarded.step():
        cross_entropy(model(batch.x), batch.y).backward()
        if rank == 0:
            optimizer.step()


def dead_end(rank: int) -> Any:
    """The block of process 1 raises; the other one waits no longer than the group's timeout."""
    model, optimizer = wrapped()
    guarded = Guarded(model, optimizer, Guard())
    batch = data(rank, 0)
    with guarded.step():
        if rank == 1:
            raise ValueError("the block is broken")
        cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()


def with_data_parallel(rank: int) -> Any:
    inner = network()
    model = DataParallel(inner)
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, process_group=None)
    names = list(learner.view().params)
    return learner.step(data(rank, 0)).verdict.committed, names == [name for name, _ in inner.named_parameters()]
