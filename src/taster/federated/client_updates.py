"""What clients send, and the server's first look at it: who is out, and why, by name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from taster.core.param_vectors import finite_rows
from taster.core.types import Updates
from taster.errors import BatchError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NamedClientUpdates(Updates):
    """Updates with their senders.

    Attributes:
        clients: names, one a row.
        statistics: [m, s], batch-norm statistics that each client brings along, see `taster.client_gradients`; None without.
        buffers: [m, b], the model's floating-point buffers as each client's own training left them, in the order of
            `named_buffers`; None where clients send none.
        faults: what is wrong, by name of the client. Their rows, where they have one, have the weight NaN, with which
            the first screen of every guard drops them.
    """

    clients: tuple[str, ...] = ()
    statistics: Tensor | None = None
    rejected_clients: Mapping[str, str] = field(default_factory=dict)
    buffers: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.clients) != len(self.values):
            raise BatchError(f"got {len(self.clients)} names of clients and {len(self.values)} updates, wanted as many")

    def select(self, keep: Tensor) -> NamedClientUpdates:
        """The clients that a boolean mask [m] (or an index) keeps."""
        index = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        return NamedClientUpdates(
            self.values[keep],
            self.weights[keep],
            tuple(self.clients[int(i)] for i in index),
            None if self.statistics is None else self.statistics[keep],
            self.rejected_clients,
            None if self.buffers is None else self.buffers[keep],
        )


@dataclass(frozen=True, eq=False)
class ClientReply:
    """What came from one client, to be trusted in nothing.

    Attributes:
        client: its name.
        update: whatever it sent; a tensor or array [d] if it is honest.
        weight: the share that it claims.
        statistics: [s], batch-norm statistics, see `ClientUpdates`; None without.
        buffers: [b], its model's buffers, see `ClientUpdates`; None without.
        fault: what whoever carried the reply found wrong with it, in words; the client is dropped for it.
    """

    client: str
    update: Any
    weight: Any = 1.0
    statistics: Tensor | None = None
    buffers: Tensor | None = None
    fault: str = ""


def stack_replies(
    replies: Iterable[ClientReply], invited: Sequence[str], like: Tensor, max_weight_ratio: float = 10.0
) -> NamedClientUpdates:
    """The replies of a round as one matrix; whoever sent what cannot be used is out, and the others go on.

    Args:
        replies: as they came.
        invited: whom the server asked, in the order of the rows.
        like: a vector [d] of the shape, dtype and device that is wanted.
        max_weight_ratio: see `validate_updates`.

    Raises:
        BatchError: when nobody, or somebody twice, was invited.
    """
    if not invited or len(set(invited)) < len(invited):
        raise BatchError(f"got {len(invited)} invited clients of {len(set(invited))} names, wanted some, each once")
    values = torch.zeros(len(invited), *like.shape, dtype=like.dtype, device=like.device)
    weights = torch.zeros(len(invited), dtype=torch.float64, device=like.device)
    faults: dict[str, str] = {}
    places = {name: i for i, name in enumerate(invited)}
    came = Counter[str]()
    sound: dict[int, ClientReply] = {}
    for reply in replies:
        came[reply.client] += 1
        if reply.client not in places:
            faults[reply.client] = "was not invited"
        elif came[reply.client] > 1:
            faults[reply.client] = f"sent {came[reply.client]} replies, wanted one"
        elif reply.fault:
            faults[reply.client] = reply.fault
        else:
            fault = _take(reply, like, values[places[reply.client]])
            weights[places[reply.client]] = _number(reply.weight)
            if fault is not None:
                faults[reply.client] = fault
            else:
                sound[places[reply.client]] = reply
    for name in invited:
        if came[name] == 0:
            faults[name] = "sent nothing"
    sound = {place: reply for place, reply in sound.items() if reply.client not in faults}
    rows = {name: _beside(name, sound, tuple(invited), faults) for name in ("statistics", "buffers")}
    updates = NamedClientUpdates(
        values, weights.to(like.dtype), tuple(invited), rows["statistics"], faults, rows["buffers"]
    )
    return validate_updates(updates, max_weight_ratio)


def validate_updates(updates: NamedClientUpdates, max_weight_ratio: float = 10.0) -> NamedClientUpdates:
    """The updates with every client that cannot be used named, and its weight NaN. Values are read once and not copied.

    Two clients that send the same update are both let through: nobody can tell who copied whom, and to drop both would
    let an attacker silence whom it likes.

    Args:
        updates: of a round.
        max_weight_ratio: how many times the median weight of the round a client may claim.
    """
    faults = dict(updates.rejected_clients)
    named = Counter(updates.clients)
    weights = updates.weights.clone()
    finite = finite_rows(updates.values).tolist()
    claimed = weights.tolist()
    sound = [w for w, name in zip(claimed, updates.clients, strict=True) if name not in faults and 0 < w < float("inf")]
    bound = max_weight_ratio * float(torch.tensor(sound).median()) if sound else 0.0
    for i, name in enumerate(updates.clients):
        if name in faults:
            pass
        elif named[name] > 1:
            faults[name] = f"sent {named[name]} updates, wanted one"
        elif not finite[i]:
            faults[name] = "sent NaN or infinity"
        elif not 0 < claimed[i] < float("inf"):
            faults[name] = f"claims a weight of {claimed[i]:g}, wanted a positive number"
        elif claimed[i] > bound:
            faults[name] = (
                f"claims a weight of {claimed[i]:g}, wanted at most {bound:g}, {max_weight_ratio:g} times the median"
            )
        if name in faults:
            weights[i] = torch.nan
    for name in sorted(faults.keys() - updates.rejected_clients.keys()) + sorted(updates.rejected_clients):
        _log.warning("client %s dropped: %s", name, faults[name])
    return NamedClientUpdates(updates.values, weights, updates.clients, updates.statistics, faults, updates.buffers)


def _take(reply: ClientReply, like: Tensor, row: Tensor) -> str | None:
    """Fills the row with what was sent; or says what is wrong with it."""
    try:
        sent = torch.as_tensor(reply.update)
    except (TypeError, ValueError, RuntimeError):
        return f"sent {type(reply.update).__name__}, wanted a tensor of {list(like.shape)}"
    if sent.shape != like.shape:
        return f"sent an update of shape {list(sent.shape)}, wanted {list(like.shape)}"
    if sent.is_complex() or not _readable(sent):
        return f"sent numbers of {sent.dtype} ({sent.layout}, {sent.device}), wanted {like.dtype} ({torch.strided})"
    row.copy_(sent.detach())
    return None


def _readable(tensor: Tensor) -> bool:
    """Whether it holds a plain number for each of its places."""
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized


def _beside(
    name: Literal["statistics", "buffers"],
    sound: Mapping[int, ClientReply],
    invited: tuple[str, ...],
    faults: dict[str, str],
) -> Tensor | None:
    """What clients sent beside their updates, a row each; None where none did. Whoever sent another number of numbers
    than most, or some that are not finite, is at fault."""
    found: dict[int, Tensor] = {}
    for place, reply in sound.items():
        row = getattr(reply, name)
        if isinstance(row, Tensor) and row.is_floating_point() and _readable(row):
            found[place] = row
        elif row is not None:
            faults[invited[place]] = f"sent {type(row).__name__} as {name}, wanted a tensor of floating-point numbers"
    if not found:
        return None
    (size, _), *_ = Counter(row.numel() for row in found.values()).most_common(1)
    some = next(iter(found.values()))
    rows: Tensor = some.new_zeros(len(invited), size)
    for place in sound:
        if invited[place] in faults:
            continue
        row = found.get(place)
        if row is None or row.numel() != size:
            faults[invited[place]] = f"sent {0 if row is None else row.numel()} numbers of {name}, wanted {size}"
        elif not bool(row.isfinite().all()):
            faults[invited[place]] = f"sent {name} with NaN or infinity"
        else:
            rows[place] = row.reshape(-1)
    return rows


def _number(value: Any) -> float:
    """The weight as a number; NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return float("nan")
