"""The clients: plain SGD on samples of their own, and mods for those that attack."""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn.functional import cross_entropy

from digits_federation.task import BATCH_SIZE, EPOCHS, RATE, client_images, make_model, shares
from taster.attacks import label_flip, sign_flip
from taster.data import as_batch
from taster.integrations.flower import ReplyCodec, colluding, load_model, malicious, model_arrays, poisoned


def is_attacker(attack: str) -> Callable[[Message, Context], bool]:
    """Whether the node was started as one of the attacker's, with `attack="..."` in its configuration."""
    return lambda message, context: context.node_config.get("attack") == attack  # noqa: ARG005


CODEC = ReplyCodec(unit=RATE)
app = ClientApp(
    mods=[
        malicious(lambda draws: sign_flip(scale=3.0), make_model, codec=CODEC, attacker=is_attacker("sign_flip")),  # noqa: ARG005
        malicious(label_flip, make_model, codec=CODEC, attacker=is_attacker("label_flip")),
        colluding(is_attacker("collude")),
    ]
)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Some epochs on what the node has, and the weights that came of it."""
    model = make_model()
    load_model(model, message.content.array_records["arrays"])
    partition, nodes = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    own = as_batch(client_images().select(shares(nodes)[partition]))
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for _ in range(EPOCHS):
        for x, y in zip(own.x.split(BATCH_SIZE), own.y.split(BATCH_SIZE), strict=True):
            x, y = poisoned(x, y)
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    metrics = MetricRecord({"num-examples": len(own)})
    return Message(RecordDict({"arrays": model_arrays(model), "metrics": metrics}), reply_to=message)
