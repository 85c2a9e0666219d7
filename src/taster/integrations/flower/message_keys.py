"""Keys of the records by which the parts of a red team recognize each other."""

from __future__ import annotations

from flwr.app import Message, MessageType

QUERY_KEY = "taster.asked"
"""In a message to a node: the red team asks for the node's honest update."""

ATTACKER_KEY = "taster.attacker"
"""In the reply to such a message: the node is the attacker's."""

ORDER_KEY = "taster.order"
"""In a message to such a node: it is to send the rest of the message's content."""


def is_train_message(message: Message) -> bool:
    """Whether a message asks for training."""
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN
