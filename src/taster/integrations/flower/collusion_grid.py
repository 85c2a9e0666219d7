"""A red team that knows what every client would send: the threat model of most attacks on updates."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from taster.attacks import RoundKnowledge, UpdateAttack
from taster.core.step_record import Phase
from taster.core.types import BatchNormMode
from taster.federated import ClientReply, claimed_weight
from taster.integrations.flower.grid_wrappers import ForwardingGrid
from taster.integrations.flower.message_keys import ATTACKER_KEY, ORDER_KEY, QUERY_KEY, is_train_message
from taster.integrations.flower.strategy import GuardedStrategy

_log = logging.getLogger(__name__)


class CollusionGrid(ForwardingGrid):
    """A grid between strategy and nodes that plays the attacker of all nodes with the mod `colluding`.

        strategy.start(CollusionGrid(grid, strategy, alie()), num_rounds=10)

    In each round all nodes are asked for their honest updates. The attack, which knows all of them, then decides what
    the attacker's nodes send, and they are ordered to send it. The attack lives here, in one process, since colluding
    attackers share their memory, while a node keeps none between two messages.

    Args:
        grid: the inner grid.
        strategy: knows how clients send updates, and the model.
        attack: decides what the attacker's nodes send.
        phase: of each round, from 0; None accumulates throughout.
    """

    def __init__(
        self,
        grid: Grid,
        strategy: GuardedStrategy,
        attack: UpdateAttack,
        phase: Callable[[int], Phase] | None = None,
    ) -> None:
        super().__init__(grid)
        self._strategy = strategy
        self._attack = attack
        self._phase = phase or (lambda _: Phase.ACCUMULATE)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, those of the attacker's nodes replaced."""
        messages = list(messages)
        if not messages or not all(is_train_message(message) for message in messages):
            return self.inner.send_and_receive(messages, timeout=timeout)
        order = {message.metadata.dst_node_id: i for i, message in enumerate(messages)}
        for content in {id(message.content): message.content for message in messages}.values():
            content[QUERY_KEY] = ConfigRecord({"asked": True})
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        replies.sort(key=lambda reply: order.get(reply.metadata.src_node_id, len(order)))
        orders = self._orders(replies)
        if not orders:
            return replies
        sent = list(self.inner.send_and_receive(orders, timeout=timeout))
        attackers = {message.metadata.dst_node_id for message in orders}
        return [reply for reply in replies if reply.metadata.src_node_id not in attackers] + sent

    def _orders(self, replies: list[Message]) -> list[Message]:
        """What each of the attacker's nodes is to send, as a message to it. Removes the attacker's marks."""
        learner, codec = self._strategy.server.learner, self._strategy.codec
        mine, read = [], list[tuple[Message, ClientReply]]()
        for message in replies:
            marked = not message.has_error() and message.content.pop(ATTACKER_KEY, None) is not None
            reply = codec.reply(str(message.metadata.src_node_id), message, learner.model)
            if not reply.fault and math.isfinite(claimed_weight(reply.weight)):
                read.append((message, reply))
                mine.append(marked)
            elif marked:
                fault = reply.fault or "claims a weight that is no number"
                _log.warning("the attacker's node %s cannot be used: it %s", reply.client, fault)
        if not any(mine):
            return []
        values = torch.stack([reply.update for _, reply in read])
        weights = torch.tensor([claimed_weight(reply.weight) for _, reply in read]).to(values)
        batch_norm: BatchNormMode = "train" if codec.statistics else "eval"
        knowledge = RoundKnowledge(values, weights, torch.tensor(mine, device=values.device), batch_norm)
        rows = self._attack.poison(knowledge, learner.view(), self._phase(learner.steps))
        if rows is None:
            return []
        attackers = [message for (message, _), own in zip(read, mine, strict=True) if own]
        return [self._order(message, row) for message, row in zip(attackers, rows, strict=True)]

    def _order(self, message: Message, row: torch.Tensor) -> Message:
        """A message to the sender of another that has it send an update in place of its own."""
        codec, model = self._strategy.codec, self._strategy.server.learner.model
        content = RecordDict(dict(copy.copy(message.content)))
        own = codec.arrays(message)
        (key,) = (name for name, record in content.array_records.items() if record is own)
        content[key] = codec.with_update(own, row, model)
        content[ORDER_KEY] = ConfigRecord({"order": True})
        return Message(content, message.metadata.src_node_id, message.metadata.message_type)
