"""What clients of a round send: single replies as they arrive, and the updates of a round as a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from taster.core.client_updates import ClientUpdates
from taster.errors import BatchError


@dataclass(frozen=True, eq=False)
class ClientReply:
    """The reply of one client. Nothing in it is trusted; `stack_replies` checks all of it.

    Attributes:
        client: name that the transport knows the client by.
        update: a tensor or NumPy array [d], from an honest client.
        weight: the share that the client claims, a number.
        statistics: batch-norm statistics [s], see `taster.client_gradients`; None where none were asked for.
        buffers: floating-point buffers [b] of the client's model; None where none were asked for.
        fault: what the transport found wrong with the reply, in words; the client is rejected for it.
    """

    client: str
    update: Any
    weight: Any = 1.0
    statistics: Any = None
    buffers: Any = None
    fault: str = ""


@dataclass(frozen=True, eq=False)
class NamedClientUpdates(ClientUpdates):
    """Updates with the names of their senders, and with what was sent beside them.

    Attributes:
        clients: names, one for each row.
        statistics: [m, s], batch-norm statistics of each client, see `taster.client_gradients`; None without.
        buffers: [m, b], floating-point buffers of each client's model, in the order of `averaged_buffers`; None
            without.
        rejected_clients: what is wrong, by client. Some of them may have no row.
    """

    clients: tuple[str, ...] = ()
    statistics: Tensor | None = None
    buffers: Tensor | None = None
    rejected_clients: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.clients) != len(self.values):
            raise BatchError(f"got {len(self.clients)} names of clients and {len(self.values)} updates, wanted as many")

    def select(self, keep: Tensor) -> NamedClientUpdates:
        """The clients that a boolean mask [m] (or an index) keeps."""
        index = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        return replace(
            self,
            values=self.values[keep],
            weights=self.weights[keep],
            usable=None if self.usable is None else self.usable[keep],
            clients=tuple(self.clients[int(i)] for i in index),
            statistics=None if self.statistics is None else self.statistics[keep],
            buffers=None if self.buffers is None else self.buffers[keep],
        )
