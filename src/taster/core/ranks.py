"""The processes that train one model together, each on batches of its own: what they have to agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from taster.core.types import Tensors, Verdict, most_severe
from taster.errors import ModelError

ProcessGroup = Any
"""A `torch.distributed.ProcessGroup`."""


class Ranks:
    """A group of processes with the same model. This class is that of a single one, for which nothing is to be agreed.

    Attributes:
        size: how many processes there are.
        rank: which of them this one is.
    """

    size: int = 1
    rank: int = 0

    def part(self, samples: int) -> slice:
        """The share of so many trusted samples that this process looks at."""
        return slice(0, samples)

    def gather_rows(self, rows: Tensors, samples: int) -> Tensors:  # noqa: ARG002
        """Rows by name of all processes, [samples, ...], from those of each process's part."""
        return rows

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def mean(self, value: float | None) -> float | None:
        """The mean over the processes."""
        return value

    def sum(self, value: int) -> int:
        """The sum over the processes."""
        return value

    def agree(self, verdict: Verdict) -> Verdict:
        """The most severe of all processes' verdicts; the first of them among equals."""
        return verdict

    def synchronize(self, tensors: Sequence[Tensor]) -> None:
        """Gives tensors the values that they have in the first process."""


class ProcessRanks(Ranks):
    """The processes of a `torch.distributed` group."""

    def __init__(self, group: ProcessGroup | None, device: torch.device) -> None:
        self._group = group
        self._device = device
        self.size = distributed.get_world_size(group)
        self.rank = distributed.get_rank(group)

    def part(self, samples: int) -> slice:
        """A stretch of the samples; the last processes may have fewer."""
        each = -(-samples // self.size)
        return slice(min(samples, each * self.rank), min(samples, each * (self.rank + 1)))

    def gather_rows(self, rows: Tensors, samples: int) -> Tensors:
        """Gathers equal parts, filled up with zeros that are cut off again."""
        each = -(-samples // self.size)
        found = {}
        for name, own in rows.items():
            sent = own.to(torch.uint8) if own.dtype == torch.bool else own
            if len(sent) < each:
                sent = torch.cat([sent, sent.new_zeros(each - len(sent), *sent.shape[1:])])
            parts = [torch.empty_like(sent) for _ in range(self.size)]
            distributed.all_gather(parts, sent.contiguous(), group=self._group)
            found[name] = torch.cat(parts)[:samples].to(own.dtype)
        return found

    def gather(self, value: Any) -> list[Any]:
        """Gathers objects."""
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=self._group)
        return found

    def any(self, flag: bool) -> bool:
        """By a sum."""
        return self._total(float(flag)) > 0

    def mean(self, value: float | None) -> float | None:
        """By a sum; None where all processes have none."""
        return None if value is None else self._total(value) / self.size

    def sum(self, value: int) -> int:
        """By a sum."""
        return round(self._total(float(value)))

    def agree(self, verdict: Verdict) -> Verdict:
        """Gathers the verdicts."""
        return most_severe(self.gather(verdict))

    def synchronize(self, tensors: Sequence[Tensor]) -> None:
        """Broadcasts them."""
        source = 0 if self._group is None else distributed.get_global_rank(self._group, 0)
        with torch.no_grad():
            for tensor in tensors:
                distributed.broadcast(tensor, src=source, group=self._group)

    def _total(self, value: float) -> float:
        total = torch.tensor([value], dtype=torch.float64, device=self._device)
        distributed.all_reduce(total, group=self._group)
        return float(total)


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
    device = next((p.device for model in models for p in model.parameters()), torch.device("cpu"))
    wrapped = [model for model in models if isinstance(model, DistributedDataParallel)]
    if isinstance(group, str):
        if not wrapped:
            raise ModelError(
                f"got a model outside DistributedDataParallel in one of {distributed.get_world_size()} processes, "
                "wanted DistributedDataParallel(model), or process_group=torch.distributed.group.WORLD where the "
                "processes train it together by other means, or process_group=None where each trains its own"
            )
        group = wrapped[0].process_group
    return ProcessRanks(group, device)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `DistributedDataParallel`, `DataParallel` and `torch.compile`."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _refuse_sharded(model: nn.Module) -> None:
    engine = type(model).__module__.split(".")[0] == "deepspeed"
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    split = any(hasattr(p, "device_mesh") or hasattr(p, "ds_id") for p in model.parameters())
    if engine or sharded or split:
        raise ModelError(
            f"got a {type(model).__name__} whose parameters are sharded over processes or copied into an engine, which "
            "no guard here can undo; wanted DistributedDataParallel, or the plain module"
        )
