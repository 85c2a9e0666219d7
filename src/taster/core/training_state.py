"""The state that a training loop begins with, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from taster.core.guard import Guard, check_is_guard
from taster.core.model_checks import check_model, check_optimizers
from taster.core.objective import Objective
from taster.core.ranks import ProcessGroup, ranks_of, unwrapped
from taster.core.snapshots import SnapshotBuffer
from taster.core.state import Companion, LearnerState
from taster.errors import ModelError, SnapshotError

Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]
Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]


def as_optimizers(optimizer: Optimizers) -> tuple[torch.optim.Optimizer, ...]:
    """One or several optimizers as a tuple."""
    return tuple(optimizer) if isinstance(optimizer, Iterable) else (optimizer,)


def modules_of(model: Models) -> list[nn.Module]:
    """One or several modules as a list."""
    if isinstance(model, nn.Module):
        return [model]
    return list(model.values() if isinstance(model, Mapping) else model)


def as_module(model: Models) -> nn.Module:
    """One module, or a module that holds several.

    Raises:
        ModelError: for anything else.
    """
    if isinstance(model, nn.Module):
        return model
    entries = list(model.values()) if isinstance(model, Mapping) else list(model) if isinstance(model, Iterable) else []
    if not entries or not all(isinstance(entry, nn.Module) for entry in entries):
        raise ModelError(f"got a model that is a {type(model).__name__}, wanted a torch.nn.Module, or several of them")
    plain = [unwrapped(entry) for entry in entries]
    if isinstance(model, Mapping):
        return nn.ModuleDict(dict(zip(model, plain, strict=True)))
    return nn.ModuleList(plain)


def training_state(
    model: Models,
    optimizer: Optimizers,
    objective: Objective,
    guard: Guard | None,
    *,
    snapshots: SnapshotBuffer | None,
    process_group: ProcessGroup | Literal["auto"] | None,
    also: Companion | Sequence[Companion] = (),
    **options: Any,
) -> LearnerState:
    """The state of a training loop, checked: what `Learner` and `Guarded` begin with.

    Raises:
        ModelError: see `taster.core.model_checks` and `taster.core.ranks`.
        SnapshotError: when the guard may rewind further than the snapshots reach back.
    """
    if guard is not None:
        check_is_guard(guard)
    module = as_module(model)
    ranks = ranks_of(modules_of(model), process_group)
    optimizers = as_optimizers(optimizer)
    check_model(unwrapped(module))
    check_optimizers(unwrapped(module), optimizers)
    companions = list(also) if isinstance(also, Sequence) else [also]
    for entry in companions:
        if not (hasattr(entry, "state_dict") and hasattr(entry, "load_state_dict")):
            raise ModelError(f"also: got a {type(entry).__name__}, wanted objects with state_dict and load_state_dict")
    back = 0 if guard is None else guard.max_rewind
    if snapshots is None and back:
        snapshots = SnapshotBuffer.for_rewind(back)
    reach = 0 if snapshots is None else snapshots.reach
    if back > reach:
        raise SnapshotError(
            f"got a guard that rewinds up to {back} steps and snapshots that reach back {reach}; give the "
            f"learner SnapshotBuffer(capacity={back + 1}) or more"
        )
    return LearnerState(module, optimizers, objective, snapshots=snapshots, also=companions, ranks=ranks, **options)
