"""Whether processes that train together have the same guard, with the same trusted data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.ranks import Ranks
from taster.core.view import View
from taster.errors import RankError

_DEPTH = 4
"""How deep in a stage's attributes trusted data are looked for."""


def check_guard(guard: Guard, view: View, ranks: Ranks) -> None:
    """Checks that the guard's trusted data fit the model, and that all processes have the same.

    Raises:
        ModelError, BatchError, LabelError: from a stage whose trusted data do not fit.
        RankError: where another process has another guard, or failed here.
    """

    def own() -> tuple[str, str]:
        return (repr(guard), _digest(guard)) if ranks.size > 1 else ("", "")

    told = ranks.together("the check of the guard", own)
    for rank, (stages, digest) in enumerate(told):
        if stages != told[0][0]:
            raise RankError(
                f"got {stages} in process {rank} and {told[0][0]} in process 0, wanted the same guard in all"
            )
        if digest != told[0][1]:
            raise RankError(
                f"got other trusted data in process {rank} than in process 0, wanted the same in all: take the probe "
                "out before the data is shared out over the processes, and in the same order"
            )
    ranks.together("the check of the model", lambda: guard.check_model(view))


def _digest(guard: Guard) -> str:
    """A number that two guards share if they hold the same trusted data."""
    found = hashlib.blake2b()
    for stage in guard:
        for batch in _batches_in(stage, _DEPTH, set()):
            for path, tensor in batch.tensors():
                found.update(f"{path} {tensor.dtype} {list(tensor.shape)}".encode())
                found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _batches_in(value: Any, depth: int, seen: set[int]) -> Iterator[Batch]:
    if isinstance(value, Batch):
        yield value
    elif depth and id(value) not in seen and not isinstance(value, (torch.Tensor, torch.nn.Module, type)):
        seen.add(id(value))
        inside = value if isinstance(value, (list, tuple)) else list(getattr(value, "__dict__", {}).values())
        for item in inside:
            yield from _batches_in(item, depth - 1, seen)
