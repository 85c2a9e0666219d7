"""A grid whose nodes are called in this process, and apps for them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from tests.conftest import TinyNet, tiny_batch
from torch import nn
from torch.nn.functional import cross_entropy

from taster.integrations.flower import load_model, model_arrays, poisoned

RATE = 0.1


class Nodes(Grid):
    """Messages go straight to the app of a node; None for an app is a node that says nothing."""

    def __init__(self, apps: dict[int, ClientApp | None]) -> None:
        # As Flower's own processes do; messages are made in its name.
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self.apps = apps
        self.got: list[Message] = []
        self.sent: list[Message] = []
        self.rounds: list[int] = []

    def arrays_of(self, node: int) -> ArrayRecord:
        """What a node last sent for its training."""
        found = [m for m in self.sent if m.metadata.src_node_id == node and "arrays" in m.content]
        return found[-1].content["arrays"]

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for message in messages:
            self.got.append(message)
            if message.metadata.message_type == "train" and "config" in message.content:
                self.rounds.append(message.content["config"]["server-round"])
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            app = self.apps[node]
            if app is None:
                continue
            config = UserConfig({"partition-id": node})
            context = Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config=UserConfig())
            try:
                replies.append(app(message, context))
            except Exception as error:
                replies.append(Message(Error(2, str(error)), reply_to=message))
        self.sent += replies
        return replies


def honest(mods: Any = None, change: Callable[[RecordDict], None] = lambda content: None, steps: int = 1) -> ClientApp:
    """An app that trains TinyNet on samples of its node's own, batch norm's statistics with it."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = TinyNet()
        load_model(model, message.content.array_records["arrays"])
        learned(model, int(context.node_config["partition-id"]), steps)
        content = RecordDict(
            {"arrays": model_arrays(model), "metrics": MetricRecord({"num-examples": 8, "loss": 1.5, "odd": [1.0]})}
        )
        change(content)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        node = int(context.node_config["partition-id"])
        metrics = MetricRecord({"num-examples": 8, "accuracy": 1e9 if node == 3 else 50.0 + node})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def learned(model: nn.Module, node: int, steps: int = 1) -> None:
    """What an honest client does."""
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for _ in range(steps):
        batch = tiny_batch(8, seed=node)
        x, y = poisoned(batch.x, batch.y)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
