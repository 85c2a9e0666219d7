"""The processes that train one model together, each on batches of its own: what they have to agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from taster.core.types import Tensors
from taster.errors import ModelError, RankError

ProcessGroup = Any
"""A `torch.distributed.ProcessGroup`."""

V = TypeVar("V")

_TOLD = "_taster_told_to_ranks"
"""Attribute of an exception that all processes know of."""


class Ranks:
    """A group of processes with the same model. This class is that of a single one, for which nothing is to be agreed.

    Attributes:
        size: how many processes there are.
        rank: which of them this one is.
    """

    size: int = 1
    rank: int = 0

    def part(self, samples: int) -> slice:
        """The share of so many trusted samples that this process looks at; never an empty one."""
        return slice(0, samples)

    def gather_rows(self, rows: Tensors, samples: int) -> Tensors:  # noqa: ARG002
        """Rows by name of all processes, [samples, ...], from those of each process's part."""
        return rows

    def together(self, what: str, function: Callable[[], V]) -> list[V]:  # noqa: ARG002
        """What the function returns in each process, in order. What fails in one of them fails in all, so that none
        waits for another that is gone.

        Args:
            what: names the place in the step, for messages, and to tell when processes are at different places.
            function: is called in this process; returns what can be pickled.

        Raises:
            RankError: where another process failed, or is elsewhere.
        """
        return [function()]

    def gather(self, what: str, value: V) -> list[V]:
        """The values of all processes, in order."""
        return self.together(what, lambda: value)

    def synchronize(self, tensors: Sequence[Tensor]) -> None:
        """Gives tensors the values that they have in the first process."""


class ProcessRanks(Ranks):
    """The processes of a `torch.distributed` group.

    Args:
        group: None for that of all processes.
        shares_buffers: whether the first process's buffers are those of all, as `DistributedDataParallel` has it.
    """

    def __init__(self, group: ProcessGroup | None, *, shares_buffers: bool = True) -> None:
        self._group = group
        self._shares_buffers = shares_buffers
        self.size: int = distributed.get_world_size(group)
        self.rank: int = distributed.get_rank(group)

    def part(self, samples: int) -> slice:
        """A stretch of the samples, as long as the others' or one longer. Where there are fewer samples than processes,
        some look at a sample that is another's as well."""
        own = self._share(self.rank, samples)
        start = min(own.start, samples - 1)
        return slice(start, max(own.stop, start + 1))

    def gather_rows(self, rows: Tensors, samples: int) -> Tensors:
        """Each process's own rows, one after the other."""
        own = self._share(self.rank, samples)
        sent = {name: value[: own.stop - own.start].cpu() for name, value in rows.items()}
        told = self.gather(f"the measurements {', '.join(rows)}", sent)
        return {name: torch.cat([part[name] for part in told]).to(value.device) for name, value in rows.items()}

    def together(self, what: str, function: Callable[[], V]) -> list[V]:
        """Gathers what the function returned, or how it failed."""
        value: V | None = None
        failure: Exception | None = None
        try:
            value = function()
        except Exception as error:
            # Inside another call of this method the others have been told already, and have left it too.
            if isinstance(error, RankError) or getattr(error, _TOLD, False):
                raise
            failure = error
        text = None if failure is None else f"{type(failure).__name__}: {failure}"
        told: list[Any] = [None] * self.size
        distributed.all_gather_object(told, (what, text, value), group=self._group)
        if failure is not None:
            setattr(failure, _TOLD, True)
            raise failure
        for rank, (place, text, _) in enumerate(told):
            if text is not None:
                raise RankError(f"process {rank} failed at {place}, so that none made the step: {text}")
            if place != what:
                raise RankError(
                    f"got process {rank} at {place} and process {self.rank} at {what}, wanted the same steps with the "
                    "same guard in all processes"
                )
        return [value for _, _, value in told]

    def synchronize(self, tensors: Sequence[Tensor]) -> None:
        """Broadcasts them, where buffers are shared."""
        if not self._shares_buffers:
            return
        source = 0 if self._group is None else distributed.get_global_rank(self._group, 0)
        with torch.no_grad():
            for tensor in tensors:
                distributed.broadcast(tensor, src=source, group=self._group)

    def _share(self, rank: int, samples: int) -> slice:
        return slice(samples * rank // self.size, samples * (rank + 1) // self.size)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean over the processes that have a value; None where none has."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def ranks_of(models: Sequence[nn.Module], group: ProcessGroup | Literal["auto"] | None) -> Ranks:
    """The processes that train these models together.

    Args:
        models: as handed over, so that a `DistributedDataParallel` shows its group.
        group: "auto" finds it out; None for a model that this process trains alone.

    Raises:
        ModelError: for sharded models, and where it cannot be told whether processes train together.
    """
    for model in models:
        _refuse_sharded(model)
    if group is None:
        return Ranks()
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return Ranks()
    wrapped = [found for found in map(_data_parallel, models) if found is not None]
    if isinstance(group, str):
        alone = [m for m in models if _data_parallel(m) is None and any(p.requires_grad for p in m.parameters())]
        if alone or not wrapped:
            raise ModelError(
                f"got a {type((alone or models)[0]).__name__} outside DistributedDataParallel in one of "
                f"{distributed.get_world_size()} processes, wanted DistributedDataParallel(model), or "
                "process_group=torch.distributed.group.WORLD where the processes train it together by other means, or "
                "process_group=None where each trains its own"
            )
        group = wrapped[0].process_group
    if distributed.get_rank(group) < 0:
        raise ModelError("got a process_group that this process is not in, wanted the one that trains the model")
    return ProcessRanks(group, shares_buffers=all(model.broadcast_buffers for model in wrapped))


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `DistributedDataParallel`, `DataParallel` and `torch.compile`."""
    return list(_layers(model))[-1]


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """A module and what it is wrapped around, from the outside in."""
    yield model
    if isinstance(model, (DistributedDataParallel, DataParallel)):
        yield from _layers(model.module)
    elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        yield from _layers(inner)


def _data_parallel(model: nn.Module) -> DistributedDataParallel | None:
    return next((layer for layer in _layers(model) if isinstance(layer, DistributedDataParallel)), None)


def _refuse_sharded(model: nn.Module) -> None:
    engine = type(model).__module__.split(".")[0] == "deepspeed"
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    split = any(hasattr(p, "device_mesh") or hasattr(p, "ds_id") for p in model.parameters())
    if engine or sharded or split:
        raise ModelError(
            f"got a {type(model).__name__} whose parameters are sharded over processes or copied into an engine, which "
            "no guard here can undo; wanted DistributedDataParallel, or the plain module"
        )
