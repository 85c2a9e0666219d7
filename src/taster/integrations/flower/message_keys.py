"""Records that a red team's own parts know each other by."""

from __future__ import annotations

from flwr.app import Message, MessageType

QUERY_KEY = "taster.asked"
"""In a message to a node: a red team asks what it would send honestly."""

ATTACKER_KEY = "taster.attacker"
"""In a reply to that: the node is the attacker's."""

ORDER_KEY = "taster.order"
"""In a message to such a node: send what else is in here."""


def is_train_message(message: Message) -> bool:
    """Whether a message asks for training."""
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN
