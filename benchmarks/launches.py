"""Launches and host waits of a guarded step beside those of a plain one, and of crafting: counts, not times.

    python benchmarks/launches.py [--models small_cnn resnet18] [--rounds 15]

Baseline: `zero_grad; loss.backward(); optimizer.step()` with SGD, momentum 0.9 and `foreach`, as on a GPU. Guarded:
`taster.Learner` and `taster.Guarded`, with an empty guard, with a gate that only says yes, and with `taster.guard`.
Counted are the operators that reach a device, by a dispatch mode: views, allocations and metadata are none, and a
`_foreach_` operator is one where its tensors let it be one, else one for each tensor. Waits are readings of numbers
from the device: those of `taster.core.host`, and any others. On a GPU the launches and waits that its profiler sees
stand beside them. Times are ratios of guarded to plain steps, pair by pair, medians. Crafting: a batch of ten PGD steps
and a direction G, by differences, gradients as they are, with one cosine, and with one for each tensor.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import taster
from taster.attacks.crafting import Crafting, CraftingSettings
from taster.core import host
from taster.derivatives import Normalize, algebra
from taster.derivatives.layouts import RowLayout
from taster.models import MODELS
from taster.perturbations import pgd

_NOTHING = frozenset(
    {
        *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"),
        *("set_", "resize_", "is_same_size", "is_pinned", "lift_fresh", "_has_compatible_shallow_copy_type"),
        *("_debug_has_internal_overlap", "_unsafe_view", "record_stream"),
    }
)
"""Operators that launch nothing."""

_READING = frozenset(
    {
        *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "allclose"),
        *("unique_consecutive", "_unique", "_unique2", "unique_dim", "argwhere", "bincount"),
    }
)
"""Operators whose result the host waits for."""

_METHODS = (
    "tolist",
    "numpy",
    "item",
    "cpu",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__array__",
    "__complex__",
)
"""Methods of tensors that the host waits in."""


class StepCounts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is launched and waited for inside the context.

    Attributes:
        launches: by operator.
        readings: waits in `taster.core.host`.
        waits: all others, by operator or method.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.readings = 0
        self._apart = False
        self._fetched = False  # inside a reading, once all is on the host: nothing is launched there

    def __enter__(self) -> StepCounts:
        self._originals: list[tuple[Any, str, Any]] = []
        for name in _METHODS:
            self._replace(Tensor, name, self._waiting(name, getattr(Tensor, name)))
        self._replace(host, "_fetched", self._reading(host._fetched))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for owner, name, original in reversed(self._originals):
            setattr(owner, name, original)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not self._apart and (name in _READING or _indexes_by_mask(name, args)):
            self.waits[name] += 1
        launching = func.namespace == "aten" and name not in _NOTHING | _READING and not func.is_view
        if launching and not self._fetched:
            self.launches[name] += _launches(name, args)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Inside, waits are not counted: they are part of one that is."""
        before, self._apart = self._apart, True
        try:
            yield
        finally:
            self._apart = before

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        self._originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, function)

    def _waiting(self, name: str, method: Any) -> Any:
        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not self._apart:
                self.waits[name] += 1
            with self._inside():
                found = method(tensor, *args, **kwargs)
            self._fetched = self._fetched or (self._apart and name == "cpu")  # until the reading is over
            return found

        return counted

    def _reading(self, fetch: Callable[[list[Tensor]], list[Any]]) -> Any:
        def counted(tensors: list[Tensor]) -> list[Any]:
            self.readings += 1
            try:
                with self._inside():
                    return fetch(tensors)
            finally:
                self._fetched = False

        return counted


def _indexes_by_mask(name: str, args: tuple[Any, ...]) -> bool:
    if name not in ("index", "index_put", "index_put_", "_unsafe_index"):
        return False
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _launches(name: str, args: tuple[Any, ...]) -> int:
    """1; for lists of tensors that no single kernel takes, one for each tensor."""
    lists = [arg for arg in args if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor)]
    if not name.startswith("_foreach_") or not lists:
        return 1
    first = lists[0][0]
    alike = all(t.dtype == first.dtype and t.device == first.device for t in tree_leaves(lists))
    same_strides = all(t.stride() == group[0].stride() for group in zip(*lists, strict=True) for t in group)
    dense = all(_dense(t) for t in lists[0])
    return 1 if alike and same_strides and dense else len(lists[0])


def _dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def yes(change: taster.CandidateUpdate) -> taster.Verdict:
    """A gate that looks at nothing."""
    return taster.COMMIT


def probe(device: torch.device, n: int = 128, seed: int = 2) -> taster.Batch:
    """Trusted samples for the models here."""
    g = torch.Generator().manual_seed(seed)
    return taster.Batch(torch.rand(n, 3, 32, 32, generator=g), torch.randint(0, 10, (n,), generator=g)).to(device)


def loop(
    model: str | torch.nn.Module, kind: str, guard: taster.Guard | None, device: torch.device, batch: int = 8
) -> Callable[[], object]:
    """A function that makes one step: "plain", by "Learner" or by "Guarded", and returns its record. The learning rate
    is 0 and running statistics stand still, so that nothing is refused."""
    torch.manual_seed(0)
    net = (MODELS[model]((3, 32, 32), 10) if isinstance(model, str) else model).to(device)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, foreach=True)
    x, y = torch.rand(batch, 3, 32, 32, device=device), torch.randint(0, 10, (batch,), device=device)

    def plain() -> None:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    if kind == "plain":
        return plain
    if kind == "Learner":
        learner = taster.Learner(net, optimizer, cross_entropy, guard)
        return lambda: learner.step(x, y)
    guarded = taster.Guarded(net, optimizer, guard, loss=cross_entropy)

    def own_code() -> object:
        with guarded.step(x, y) as step:
            optimizer.zero_grad()
            step.loss = cross_entropy(net(x), y)
            step.loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return step.record

    return own_code


def counted(step: Callable[[], object], warm: int = 5) -> StepCounts:
    """What one step launches and waits for, once memory and momentum are there."""
    for _ in range(warm):
        step()
    with StepCounts() as counts:
        step()
    return counts


STEPS = 10
"""PGD steps of a batch."""


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside, gradients are held and samples stop as on a GPU, wherever they are."""
    with patch.object(algebra, "layout_for", RowLayout.of), patch.object(pgd, "_shrinks", lambda _: False):
        yield


def crafting(
    model: str | torch.nn.Module, kind: str, normalize: Normalize, device: torch.device, batch: int = 8
) -> Callable[[], object]:
    """A function that crafts: a "batch" of `STEPS` PGD steps towards fixed directions, or "G"."""
    torch.manual_seed(0)
    net = (MODELS[model]((3, 32, 32), 10) if isinstance(model, str) else model).to(device)
    view = taster.Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), cross_entropy).view()
    one, other, poison = (probe(device, batch, seed) for seed in range(3))
    mine = CraftingSettings(epsilon=0.1, pgd_steps=STEPS, normalize=normalize)
    craft = Crafting(mine, lambda n: probe(device, n), torch.Generator())
    if kind == "G":
        return lambda: craft.derivatives.accumulation_direction(craft.loss(view), view.trainable, one, other, normalize)
    terms = [(1.0, craft.normalized_gradient(view, one)), (-0.5, craft.normalized_gradient(view, other))]
    mask = torch.ones(batch, dtype=torch.bool, device=device)
    return lambda: craft.align(poison, view, terms, mask)


def profiled(step: Callable[[], object]) -> dict[str, int]:
    """Launches and waits of one step as CUDA's own profiler sees them."""
    torch.cuda.synchronize()
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as seen:
        step()
    names = Counter(event.name for event in seen.events() or ())
    launching, waiting = ("Launch", "MemcpyAsync", "MemsetAsync"), ("StreamSynchronize", "EventSynchronize")
    return {
        "launches": sum(n for name, n in names.items() if any(part in name for part in launching)),
        "waits": sum(n for name, n in names.items() if any(part in name for part in waiting)),
    }


def seconds(work: Callable[[], object]) -> float:
    """Wall time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(model: str, rounds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row for each kind of step."""
    baseline = loop(model, "plain", None, device)
    plain = counted(baseline)
    yield {"model": model, "step": "plain", "guard": "", **_row(plain, baseline, device)}
    for kind in ("Learner", "Guarded"):
        for name, guard in (
            ("none", taster.Guard()),
            ("yes", taster.Guard(gates=[yes])),
            ("taster.guard", taster.guard(probe(device))),
        ):
            step = loop(model, kind, guard, device)
            found = _row(counted(step), step, device)
            pairs = [(seconds(baseline), seconds(step)) for _ in range(rounds)]
            ratio = statistics.median(guarded / base for base, guarded in pairs)
            yield {"model": model, "step": kind, "guard": name, **found, "time_ratio": round(ratio, 3)}


def measure_crafting(model: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row for each kind of crafting."""
    ways: tuple[Normalize, ...] = ("none", "global", "per_tensor")
    for kind in ("batch", "G"):
        for normalize in ways:
            with as_on_a_gpu():
                step = crafting(model, kind, normalize, device)
                row = _row(counted(step, 2), step, device)
            yield {"model": model, "crafting": kind, "normalize": normalize, **row}


def _row(counts: StepCounts, step: Callable[[], object], device: torch.device) -> dict[str, Any]:
    row: dict[str, Any] = {
        "launches": counts.launches.total(),
        "readings": counts.readings,
        "other_waits": counts.waits.total(),
    }
    return row if device.type != "cuda" else {**row, "cuda": profiled(step)}


def main() -> None:
    """Prints a line of JSON for each kind of step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small_cnn", "resnet18"], choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(json.dumps({"torch": torch.__version__, "machine": machine, "threads": torch.get_num_threads()}))
    for model in options.models:
        for row in (*measure_crafting(model, device), *measure(model, options.rounds, device)):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
