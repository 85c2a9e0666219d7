"""The clients of a `taster.federated.ClientPool` as a ClientApp, one node for each client of a round."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.client_gradients import ClientGradients
from taster.core.functional_model import FunctionalModel, Precision
from taster.core.losses import Loss
from taster.core.objective import Objective
from taster.core.param_vectors import unflatten
from taster.core.view import View
from taster.integrations.flower.arrays import from_array_record, to_array_record
from taster.integrations.flower.mods import colluding
from taster.integrations.flower.reply_codec import STATISTICS_KEY

SAMPLES_KEY, CLIENT_KEY, MODEL_KEY = "taster.samples", "taster.client", "arrays"
"""Records of a message to a simulated client; the model's has the name that Flower's strategies give it."""

_made: dict[str, tuple[nn.Module, FunctionalModel, ClientGradients]] = {}
"""What this process has made for an app, since apps are sent again with every message."""


def simulated_clients_app(
    model: Callable[[], nn.Module],
    gradients: Callable[[], ClientGradients] = ClientGradients,
    *,
    loss: Loss = cross_entropy,
    precision: Precision = "float32",
) -> ClientApp:
    """An app whose nodes compute what `FlowerSimulation` asks for; the attacker's send what the attack decides.

    Args:
        model: makes a model as the server's; called once in each process of the engine, to which it is sent.
        gradients: makes what computes clients' updates.
        loss: of (output, y).
        precision: of the forward pass.
    """
    token = uuid.uuid4().hex
    app = ClientApp(mods=[colluding(_is_attackers)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if token not in _made:
            _made.clear()
            made = model()
            _made[token] = (made, FunctionalModel(made, Objective(loss), precision), gradients())
        return _computed(message, *_made[token])

    return app


def client_request(
    arrays: ArrayRecord, x: Tensor, y: Tensor, counts: Sequence[int], place: int, *, malicious: bool, scale: float
) -> RecordDict:
    """The content of a message to a simulated client.

    Args:
        arrays: the model.
        x, y: samples: the client's, or the whole round's for synchronized statistics.
        counts: samples of each client among them.
        place: index of the client in `counts`.
        malicious: whether the client is the attacker's.
        scale: factor on its update.
    """
    settings: dict[str, Any] = {"counts": list(counts), "place": place, "malicious": malicious, "scale": scale}
    return RecordDict(
        {MODEL_KEY: arrays, SAMPLES_KEY: to_array_record({"x": x, "y": y}), CLIENT_KEY: ConfigRecord(settings)}
    )


def _computed(message: Message, model: nn.Module, functional: FunctionalModel, gradients: ClientGradients) -> Message:
    settings, samples = message.content.config_records[CLIENT_KEY], message.content.array_records[SAMPLES_KEY]
    own = from_array_record(message.content.array_records[MODEL_KEY], model.state_dict())
    params = {name: own.get(name, p) for name, p in model.named_parameters()}
    buffers = {name: own.get(name, b) for name, b in model.named_buffers()}
    view = View(lambda: functional, lambda: (params, buffers), step=0)
    device = next(model.parameters()).device
    x, y = (torch.from_numpy(samples[name].numpy().copy()).to(device) for name in ("x", "y"))
    counts, place = list(map(int, settings["counts"])), int(settings["place"])  # type: ignore[arg-type]
    values, statistics = gradients(view, x, y, counts)
    update = values[place] * float(settings["scale"])  # type: ignore[arg-type]
    content: dict[str, Any] = {
        MODEL_KEY: to_array_record(unflatten(update, view.trainable)),
        "metrics": MetricRecord({"num-examples": counts[place]}),
    }
    if statistics is not None:
        content[STATISTICS_KEY] = to_array_record({"statistics": statistics[place]})
    return Message(RecordDict(content), reply_to=message)


def _is_attackers(message: Message, context: Context) -> bool:
    """The red team's order has no settings, and is sent to the attacker's nodes only."""
    settings = message.content.config_records.get(CLIENT_KEY)
    return settings is None or bool(settings["malicious"])
