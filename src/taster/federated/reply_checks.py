"""The server's checks of what clients sent: who is rejected, and why, by name. Nothing a client sends raises here."""

from __future__ import annotations

import logging
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor

from taster.core.param_vectors import finite_rows
from taster.errors import BatchError
from taster.federated.replies import ClientReply, NamedClientUpdates
from taster.federated.reply_format import ReplyFormat, VectorFormat

_log = logging.getLogger(__name__)

_TEXT = 500
"""Characters of a fault that are kept: parts of it are the client's own words."""

_NAMED = 5
"""Clients that the reason of an empty round names."""


def stack_replies(
    replies: Iterable[ClientReply], invited: Sequence[str], wanted: ReplyFormat, max_weight_ratio: float = 10.0
) -> NamedClientUpdates:
    """The replies of a round as one matrix, each client either accepted or rejected by name.

    Args:
        replies: as they arrived, in any order.
        invited: names of the clients that were asked, in the order of the rows.
        wanted: what they were asked for.
        max_weight_ratio: see `validate_updates`.

    Raises:
        BatchError: when nobody, or somebody twice, was invited.
    """
    if not invited or len(set(invited)) < len(invited):
        raise BatchError(f"got {len(invited)} invited clients of {len(set(invited))} names, wanted some, each once")
    values = _rows(len(invited), wanted.update)
    side = None if wanted.side is None else _rows(len(invited), wanted.side)
    weights = torch.full((len(invited),), torch.nan, dtype=torch.float64)
    places = {name: i for i, name in enumerate(invited)}
    came = Counter[str]()
    faults: dict[str, str] = {}
    for number, reply in enumerate(replies):
        name = reply.client if isinstance(reply, ClientReply) else None
        if not isinstance(reply, ClientReply) or type(name) is not str:
            faults[f"reply {number}"] = f"is of type {type(reply).__name__} or without a name, wanted a ClientReply"
            continue
        came[name] += 1
        if name not in places:
            faults[name] = "was not invited"
        elif came[name] > 1:
            faults[name] = f"sent {came[name]} replies, wanted one"
        else:
            place = places[name]
            fault = _take(reply, wanted, values[place], None if side is None else side[place])
            weights[place] = claimed_weight(reply.weight)
            if fault is not None:
                faults[name] = fault[:_TEXT]
    faults |= {name: "sent nothing" for name in invited if not came[name]}
    beside = {} if wanted.side is None else {wanted.side.name: side}
    updates = NamedClientUpdates(
        values,
        weights.to(wanted.update.device, wanted.update.dtype),
        clients=tuple(invited),
        rejected_clients=faults,
        **beside,  # type: ignore[arg-type]
    )
    return validate_updates(updates, wanted, max_weight_ratio)


def validate_updates(
    updates: NamedClientUpdates, wanted: ReplyFormat, max_weight_ratio: float = 10.0
) -> NamedClientUpdates:
    """The updates with `usable` and `rejected_clients` filled in. Values are read once and not copied.

    Rejected are clients whose numbers are NaN, infinite, or so large that a mean over clients overflows; a weight that
    is not positive, or more than `max_weight_ratio` times the median of the round; variances below 0; and counts of
    values (behind batch-norm statistics) that are not positive, or as far above their median. Two clients that send the
    same update are both accepted: which of them copied the other cannot be known, and rejecting both would let an
    attacker silence anyone.

    Args:
        updates: of a round.
        wanted: what the clients were asked for.
        max_weight_ratio: how many times the median weight of the round a client may claim.

    Raises:
        BatchError: when the matrices have other widths than wanted: a mistake of whoever made them.
    """
    side = None if wanted.side is None else getattr(updates, wanted.side.name)
    for rows, one in ((updates.values, wanted.update), (side, wanted.side)):
        if one is not None and (rows is None or rows.shape[1] != one.size):
            got = "none" if rows is None else f"{rows.shape[1]} numbers"
            raise BatchError(f"{one.name}: got {got} for each client, wanted {one.size}")
    faults = dict(updates.rejected_clients)

    def add(found: Mapping[int, str]) -> list[int]:
        for row, fault in found.items():
            faults.setdefault(updates.clients[row], fault)
        return [row for row, name in enumerate(updates.clients) if name not in faults]

    named = Counter(updates.clients)
    add({row: f"sent {named[name]} updates, wanted one" for row, name in enumerate(updates.clients) if named[name] > 1})
    accepted = add(_norm_faults(updates.values, wanted.update))
    accepted = add(_claim_faults(updates.weights.tolist(), accepted, max_weight_ratio, "a weight of"))
    if side is not None and wanted.side is not None:
        accepted = add(_number_faults(side, wanted.side))
        for column in [] if wanted.side.counts is None else side[:, wanted.side.counts].t().tolist():
            accepted = add(_claim_faults(column, accepted, max_weight_ratio, "statistics of a number of values of"))
    for name, fault in faults.items():
        _log.warning("client %s rejected: %s", name[:_TEXT], fault)
    usable = torch.zeros(len(updates), dtype=torch.bool)
    usable[accepted] = True
    return replace(
        updates,
        usable=usable.to(updates.values.device),
        rejected_clients=faults,
        rejection=f"no client sent an update that can be used: {_listed(faults)}",
    )


def claimed_weight(value: Any) -> float:
    """A weight that a client claims as a number; NaN for anything else, strings included."""
    try:
        if (isinstance(value, Tensor) and value.numel() == 1) or isinstance(value, numbers.Real):
            return torch.nan if isinstance(value, bool) else float(value)
    except Exception:  # whatever the client's object raises
        return torch.nan
    return torch.nan


def _rows(count: int, one: VectorFormat) -> Tensor:
    return torch.zeros(count, one.size, dtype=one.dtype, device=one.device)


def _take(reply: ClientReply, wanted: ReplyFormat, row: Tensor, side_row: Tensor | None) -> str | None:
    """Copies what was sent to the client's rows; returns what is wrong with it, if anything."""
    if type(reply.fault) is not str or reply.fault:
        return reply.fault if type(reply.fault) is str else "could not be delivered"
    fault = _copy(reply.update, wanted.update, row)
    if fault is not None:
        return fault
    for name in ("statistics", "buffers"):
        sent = getattr(reply, name)
        if wanted.side is None or name != wanted.side.name:
            if sent is not None:
                return f"sent {name}, which were not asked for"
        elif side_row is not None and not (sent is None and wanted.side.size == 0):
            fault = _copy(sent, wanted.side, side_row)
    return fault


def _copy(sent: Any, one: VectorFormat, row: Tensor) -> str | None:
    wanted = f"wanted a tensor of {one.size} numbers of {one.dtype}"
    try:
        if isinstance(sent, numpy.ndarray):
            sent = torch.from_numpy(numpy.array(sent))
        if not isinstance(sent, Tensor):
            return f"sent {type(sent).__name__} as {one.name}, {wanted}"
        if sent.is_nested or sent.layout is not torch.strided or sent.is_meta or sent.is_quantized:
            return f"sent {one.name} of layout {sent.layout}, device {sent.device} and {sent.dtype}, {wanted}"
        if sent.shape != row.shape:
            return f"sent {one.name} of shape {list(sent.shape)}, {wanted}"
        if sent.is_complex() or sent.dtype == torch.bool:
            return f"sent {one.name} of {sent.dtype}, {wanted}"
        row.copy_(sent.detach())
    except Exception as error:  # whatever the client's object raises
        row.zero_()
        return f"sent {type(sent).__name__} as {one.name} that cannot be read ({type(error).__name__}), {wanted}"
    return None


def _norm_faults(values: Tensor, one: VectorFormat) -> dict[int, str]:
    wide = torch.promote_types(values.dtype, torch.float32)
    norms = torch.linalg.vector_norm(values.detach(), dim=1, dtype=wide).tolist()
    faults = {}
    for row, norm in enumerate(norms):
        if norm <= one.limit:
            continue
        if bool(finite_rows(values[row : row + 1])):
            norm = float(torch.linalg.vector_norm(values[row].detach(), dtype=torch.float64))
            faults[row] = f"sent an update of norm {norm:g}, wanted at most {one.limit:g}"
        else:
            faults[row] = "sent NaN or infinity"
    return faults


def _number_faults(rows: Tensor, one: VectorFormat) -> dict[int, str]:
    """Rows with numbers that are not finite, too large, or negative where they are variances."""
    least = rows.new_full((one.size,), -one.limit)
    most = rows.new_full((one.size,), one.limit)
    if one.variances is not None:
        least[one.variances] = 0
        most[one.variances] = min(one.limit**2, torch.finfo(rows.dtype).max / 4)
    if one.counts is not None:
        most[one.counts] = torch.inf  # compared with those of other clients
    faults = {}
    for row in (~((rows >= least) & (rows <= most)).all(1)).nonzero().flatten().tolist():
        values = rows[row]
        bad = values[~((values >= least) & (values <= most))]
        if not bool(values.isfinite().all()):
            faults[row] = f"sent {one.name} with NaN or infinity"
        elif one.variances is not None and bool((values[one.variances] < 0).any()):
            faults[row] = f"sent {one.name} with a negative variance, {float(values[one.variances].min()):g}"
        else:
            faults[row] = f"sent {one.name} with {float(bad[0]):g}, wanted sizes of at most {one.limit:g}"
    return faults


def _claim_faults(claims: list[float], accepted: list[int], max_ratio: float, what: str) -> dict[int, str]:
    """Claims that are not positive, or more than `max_ratio` times the median of those accepted so far."""
    sound = [claims[row] for row in accepted if 0 < claims[row] < torch.inf]
    bound = max_ratio * float(torch.tensor(sound, dtype=torch.float64).median()) if sound else 0.0
    faults = {}
    for row in accepted:
        if not 0 < claims[row] < torch.inf:
            faults[row] = f"claims {what} {claims[row]:g}, wanted a positive number"
        elif claims[row] > bound:
            faults[row] = f"claims {what} {claims[row]:g}, wanted at most {bound:g}, {max_ratio:g} times the median"
    return faults


def _listed(faults: Mapping[str, str]) -> str:
    said = [f"{name[:_TEXT]} {fault}" for name, fault in list(faults.items())[:_NAMED]]
    more = len(faults) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")
