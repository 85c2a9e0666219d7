"""Converts between clients' messages and the replies that taster's server reads."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor, nn

from taster.core.param_vectors import flatten, trainable_parameters, unflatten
from taster.errors import BatchError
from taster.federated import ClientReply, ReplyFormat, SideData, averaged_buffers
from taster.integrations.flower.arrays import from_array_record, to_array_record

Sends = Literal["weights", "updates"]
"""A client's whole `state_dict` after its training, or a gradient (or what stands for one) by names of parameters."""

STATISTICS_KEY = "taster.statistics"
"""The record of batch-norm statistics that clients of taster's own engine send beside their updates."""

_TEXT = 80
"""Characters of a client's own words that a fault repeats."""


@dataclass(frozen=True)
class ReplyCodec:
    """How clients send what they have learned.

    Attributes:
        sends: weights θₙ, which become the update (θ − θₙ) / unit; or updates, which are taken unchanged.
        unit: divisor of θ − θₙ. With 1 and SGD at learning rate 1 the mean of updates is FedAvg; the clients' learning
            rate makes updates comparable to gradients.
        buffers: whether the buffers that come with weights are used.
        statistics: whether clients are asked for batch-norm statistics beside updates.
        weighted_by: the metric that holds a client's weight.

    Raises:
        BatchError: for an unknown `sends`, a `unit` that is not positive, or statistics with weights.
    """

    sends: Sends = "weights"
    unit: float = 1.0
    buffers: bool = True
    statistics: bool = False
    weighted_by: str = "num-examples"

    def __post_init__(self) -> None:
        if self.sends not in get_args(Sends):
            raise BatchError(f"sends: got {self.sends!r}, wanted one of {', '.join(get_args(Sends))}")
        if not 0 < self.unit < float("inf"):
            raise BatchError(f"unit: got {self.unit}, wanted a positive number")
        if self.statistics and self.sends == "weights":
            raise BatchError("got statistics with sends='weights', wanted sends='updates': weights bring their buffers")

    @property
    def side_data(self) -> SideData | None:
        """What the server reads beside the update."""
        if self.statistics:
            return "statistics"
        return "buffers" if self.sends == "weights" and self.buffers else None

    def reply(self, client: str, message: Message, model: nn.Module) -> ClientReply:
        """A message as a reply to taster's server, with a fault if it cannot be used. Never raises for what a client
        sent.

        Args:
            client: the sender's name.
            message: as it arrived; nothing in it is trusted.
            model: as it was sent out.
        """
        try:
            if message.has_error():
                return ClientReply(client, None, fault=f"failed: {failure_reason(message)}")
            arrays = self.arrays(message)
            self._check_names(arrays, model)
            update, weight = self.update(arrays, model), _weight(message, self.weighted_by)
            statistics = self._statistics(message, model)
            return ClientReply(client, update, weight, statistics, self._buffers(arrays, model))
        except ValueError as error:
            return ClientReply(client, None, fault=str(error) or "sent a message that cannot be read")
        except Exception as error:  # whatever a message of any content makes Flower raise
            return ClientReply(client, None, fault=f"sent a message that cannot be read ({type(error).__name__})")

    def arrays(self, message: Message) -> ArrayRecord:
        """The record that holds what was learned.

        Raises:
            ValueError: when there is none, or several.
        """
        found = {name: record for name, record in message.content.array_records.items() if name != STATISTICS_KEY}
        if len(found) != 1:
            raise ValueError(f"sent {len(found)} records of arrays, wanted one")
        return next(iter(found.values()))

    def update(self, arrays: ArrayRecord, model: nn.Module) -> Tensor:
        """The update [d] of a record.

        Raises:
            ValueError: for an array that is missing, of another shape or unreadable.
        """
        own = trainable_parameters(model)
        sent = from_array_record(arrays, own)
        if self.sends == "weights":
            sent = {name: (own[name] - value) / self.unit for name, value in sent.items()}
        return flatten(sent)

    def with_update(self, arrays: ArrayRecord, update: Tensor, model: nn.Module) -> ArrayRecord:
        """The record with another update [d] in place of its own."""
        own = trainable_parameters(model)
        new = unflatten(update, own)
        if self.sends == "weights":
            new = {name: own[name] - self.unit * value for name, value in new.items()}
        return ArrayRecord({**arrays, **to_array_record(new)})

    def _check_names(self, arrays: ArrayRecord, model: nn.Module) -> None:
        known: Collection[str] = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        if self.sends == "weights":
            known = {*known, *model.state_dict()}
        unknown = [str(name)[:_TEXT] for name in itertools.islice((name for name in arrays if name not in known), 3)]
        if unknown:
            raise ValueError(f"sent arrays that were not asked for: {', '.join(map(repr, unknown))}")

    def _buffers(self, arrays: ArrayRecord, model: nn.Module) -> Tensor | None:
        own = averaged_buffers(model)
        if self.side_data != "buffers" or not own:
            return None
        kept = model.state_dict().keys()
        # Non-persistent buffers, which no state_dict holds, stay the model's own.
        return flatten(
            {name: from_array_record(arrays, {name: b})[name] if name in kept else b for name, b in own.items()}
        )

    def _statistics(self, message: Message, model: nn.Module) -> Tensor | None:
        record = message.content.array_records.get(STATISTICS_KEY)
        if record is None:
            return None
        if not self.statistics:
            raise ValueError("sent statistics, which were not asked for")
        wanted = ReplyFormat.of(model, "statistics").side
        assert wanted is not None
        if set(record) != {"statistics"}:
            raise ValueError(f"sent {len(record)} arrays of statistics, wanted one, 'statistics'")
        like = torch.empty(wanted.size, dtype=wanted.dtype, device=wanted.device)
        return from_array_record(record, {"statistics": like})["statistics"]


def failure_reason(failure: Message) -> str:
    """Why a node failed, in one line: what was raised in its app, without the engines' own traces around it."""
    lines = [line.strip() for line in str(failure.error.reason or "").splitlines() if line.strip()]
    raised = [line.split("Message: ", 1)[1] for line in lines if "Message: " in line]
    return (raised or lines or ["no reason given"])[-1].removesuffix("'>")[:500]


def _weight(message: Message, key: str) -> Any:
    found = [record[key] for record in message.content.metric_records.values() if key in record]
    if len(found) != 1:
        raise ValueError(f"sent {len(found)} metrics {key!r}, wanted one, with its weight")
    return found[0]
