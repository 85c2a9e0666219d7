"""Frozen weights in checkpoints: they are left out, and known again by a few numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taster.errors import CheckpointError

_RELATIVE = 1e-6
"""How far sums may lie apart that were taken in another order, on another device say."""


def without_frozen(
    module: nn.Module, state: Mapping[str, Any], changing: Collection[int] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A state dictionary without the module's frozen parameters, and the fingerprint of each of these.

    Args:
        module: whose state it is.
        state: the whole of it.
        changing: identities of frozen parameters that change nevertheless, which stay in.
    """
    frozen = {
        name: p
        for name, p in module.named_parameters(remove_duplicate=False)
        if not p.requires_grad and id(p) not in changing
    }
    kept = {name: value for name, value in state.items() if name not in frozen}
    return kept, {name: _fingerprint(p) for name, p in frozen.items() if name in state}


def with_frozen(module: nn.Module, state: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    """A whole state dictionary again, with the frozen parameters that the module has.

    Raises:
        CheckpointError: when it has other ones.
    """
    own = module.state_dict()
    found = dict(state)
    for name, fingerprint in fingerprints.items():
        if not isinstance(own.get(name), Tensor):
            raise CheckpointError(f"got a state with frozen weights {name}, which the model does not have")
        if not _same(_fingerprint(own[name]), fingerprint):
            raise CheckpointError(
                f"got a state learned on other frozen weights ({name} differs); frozen weights are in no checkpoint: "
                "load those that the model had before the state, from_pretrained say"
            )
        found[name] = own[name]
    return found


def _fingerprint(tensor: Tensor) -> dict[str, Any]:
    tensor = tensor.detach()
    places = tensor.reshape(-1)[:: max(1, tensor.numel() // 8)][:8]
    return {
        "shape": list(tensor.shape),
        "sum": float(tensor.sum(dtype=torch.float64)),
        "values": [float(value) for value in places.double()],
    }


def _same(own: Mapping[str, Any], other: Any) -> bool:
    if not isinstance(other, Mapping) or own["shape"] != other.get("shape") or own["values"] != other.get("values"):
        return False
    scale = max(1.0, abs(own["sum"]), math.prod(own["shape"]) ** 0.5)
    return bool(abs(own["sum"] - float(other["sum"])) <= _RELATIVE * scale)
