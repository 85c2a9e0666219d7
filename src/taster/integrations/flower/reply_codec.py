"""The form in which clients send what they have learned, and what taster's server makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor, nn

from taster.core.param_vectors import flatten, floating_buffers, trainable_parameters, unflatten
from taster.errors import BatchError
from taster.federated import ClientReply
from taster.integrations.flower.arrays import from_array_record, to_array_record

Sends = Literal["weights", "updates"]
"""A client's whole `state_dict` after its training, or a gradient (or what stands for one) by names of parameters."""

STATISTICS_KEY = "taster.statistics"
"""The record of batch-norm statistics that clients of taster's own engine bring along."""


@dataclass(frozen=True)
class ReplyCodec:
    """What is in a reply.

    Attributes:
        sends: weights θₙ, which become the update (θ − θₙ) / unit; or updates, which are taken as they are.
        unit: what the way that training went is divided by. With 1 and SGD at rate 1 the mean of updates is FedAvg; the
            clients' learning rate puts it in the units of a gradient.
        buffers: whether the buffers that come with weights are taken too.
        weighted_by: the metric that holds a client's weight.
    """

    sends: Sends = "weights"
    unit: float = 1.0
    buffers: bool = True
    weighted_by: str = "num-examples"

    def __post_init__(self) -> None:
        if self.sends not in get_args(Sends):
            raise BatchError(f"sends: got {self.sends!r}, wanted one of {', '.join(get_args(Sends))}")
        if not 0 < self.unit < float("inf"):
            raise BatchError(f"unit: got {self.unit}, wanted a positive number")

    def reply(self, client: str, message: Message, model: nn.Module) -> ClientReply:
        """A message as a reply to taster's server; with the fault, where it is none that could be used.

        Args:
            client: the name of whoever sent it.
            message: as it came, to be trusted in nothing.
            model: as it was sent out.
        """
        if message.has_error():
            return ClientReply(client, None, fault=f"failed: {failure_reason(message)}")
        try:
            arrays = self.arrays(message)
            update, weight = self.update(arrays, model), _weight(message, self.weighted_by)
            return ClientReply(client, update, weight, _statistics(message, update), self._buffers(arrays, model))
        except ValueError as error:
            return ClientReply(client, None, fault=str(error))

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
            ValueError: for what is missing or of another shape.
        """
        own = trainable_parameters(model)
        sent = from_array_record(arrays, own)
        if self.sends == "weights":
            sent = {name: (own[name] - value) / self.unit for name, value in sent.items()}
        return flatten(sent)

    def with_update(self, arrays: ArrayRecord, update: Tensor, model: nn.Module) -> ArrayRecord:
        """The record with another update [d] in it, and all else as it was."""
        own = trainable_parameters(model)
        new = unflatten(update, own)
        if self.sends == "weights":
            new = {name: own[name] - self.unit * value for name, value in new.items()}
        return ArrayRecord({**arrays, **to_array_record(new)})

    def _buffers(self, arrays: ArrayRecord, model: nn.Module) -> Tensor | None:
        own = floating_buffers(model)
        if self.sends != "weights" or not self.buffers or not own:
            return None
        kept = model.state_dict().keys()
        # Those that no state_dict holds stay the model's own.
        return flatten(
            {name: from_array_record(arrays, {name: b})[name] if name in kept else b for name, b in own.items()}
        )


def failure_reason(failure: Message) -> str:
    """Why a node failed, in a line: what was raised in its app, without the engines' own traces around it."""
    lines = [line.strip() for line in str(failure.error.reason or "").splitlines() if line.strip()]
    told = [line.split("Message: ", 1)[1] for line in lines if "Message: " in line]
    return (told or lines or ["no reason given"])[-1].removesuffix("'>")[:500]


def _weight(message: Message, key: str) -> Any:
    for record in message.content.metric_records.values():
        if key in record:
            return record[key]
    raise ValueError(f"sent no metric {key!r}, wanted its weight there")


def _statistics(message: Message, like: Tensor) -> Tensor | None:
    record: Mapping[str, Any] | None = message.content.array_records.get(STATISTICS_KEY)
    if record is None:
        return None
    try:
        return torch.cat([torch.from_numpy(array.numpy().copy()).reshape(-1) for array in record.values()]).to(like)
    except Exception as error:  # as in reading any array
        raise ValueError(f"sent statistics that cannot be read ({type(error).__name__}: {error})") from error
