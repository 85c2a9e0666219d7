"""Fifty hostile nodes over Flower's strategy: the run goes on, each is named, honest ones are aggregated as alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

pytest.importorskip("flwr", reason='needs the extra: pip install "taster[flower]"')

import numpy
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from tests.conftest import TinyNet
from tests.integrations.flower.nodes import Nodes, honest
from torch.nn.functional import cross_entropy

from taster import Learner
from taster.federated import AGGREGATORS, Server
from taster.integrations.flower import GuardedStrategy
from taster.integrations.flower.reply_codec import STATISTICS_KEY

HONEST, HOSTILE = 52, 50
Change = Callable[[RecordDict], None]


def array(values: Any) -> Array:
    return Array(numpy.asarray(values))


def put(name: str, value: Array) -> Change:
    def change(content: RecordDict) -> None:
        content["arrays"][name] = value

    return change


def record(key: str, value: Any) -> Change:
    def change(content: RecordDict) -> None:
        content[key] = value

    return change


def without(*path: str) -> Change:
    def change(content: RecordDict) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


def raises(content: RecordDict) -> None:
    raise RuntimeError("out of luck")


def raw(data: bytes, shape: tuple[int, ...] = (3,), dtype: str = "float32") -> Array:
    return Array(dtype, shape, "numpy.ndarray", data)


def npy_of(shape: str, dtype: str = "<f4") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"0" * 12


FLOAT = numpy.float32
HOSTILITIES: dict[str, Change | None] = {
    "silent": None,
    "raises": raises,
    "NaN": put("fc.bias", array(FLOAT([0, numpy.nan, 0]))),
    "infinity": put("fc.bias", array(FLOAT([numpy.inf, 0, 0]))),
    "huge": put("fc.bias", array(FLOAT([3e38, 0, 0]))),
    "infinite in float32": put("fc.bias", array([1e300, 0, 0])),
    "long": put("fc.bias", array(FLOAT([0] * 4))),
    "transposed": put("fc.weight", array(numpy.zeros((4, 3), FLOAT))),
    "complex": put("fc.bias", array(numpy.zeros(3, numpy.complex64))),
    "bool": put("fc.bias", array(numpy.zeros(3, bool))),
    "text": put("fc.bias", array(["a", "b", "c"])),
    "records": put("fc.bias", array(numpy.zeros(3, [("a", "f4")]))),
    "no numbers": put("fc.bias", raw(b"")),
    "junk": put("fc.bias", raw(b"not numbers")),
    "a large buffer": put("fc.bias", raw(b"0" * 100_000)),
    "an archive": put("fc.bias", raw(b"PK\x03\x04" + b"0" * 30)),
    "a pickle": put("fc.bias", raw(npy_of("(3,)", "|O"))),
    "a claimed shape": put("fc.bias", raw(npy_of("(10000000000000,)"))),
    "a negative shape": put("fc.bias", raw(npy_of("(-3,)"))),
    "other shape than claimed": put("fc.bias", raw(npy_of("(1, 3)"))),
    "missing array": without("arrays", "fc.bias"),
    "unknown array": put("fc.scale", array(FLOAT([1]))),
    "missing buffer": without("arrays", "bn.running_var"),
    "negative variance": put("bn.running_var", array(FLOAT([1, 1, -1000, 1]))),
    "NaN for a mean": put("bn.running_mean", array(FLOAT([numpy.nan] * 4))),
    "huge mean": put("bn.running_mean", array(FLOAT([1e30] * 4))),
    "statistics": record(STATISTICS_KEY, ArrayRecord({"x": array(numpy.zeros(9, FLOAT))})),
    "no record of arrays": without("arrays"),
    "a second record": record("more", ArrayRecord({"x": array(FLOAT([1]))})),
    "no metrics": without("metrics"),
    "no weight": record("metrics", MetricRecord({"loss": 1.0})),
    "two weights": record("others", MetricRecord({"num-examples": 8})),
    "weight NaN": record("metrics", MetricRecord({"num-examples": float("nan")})),
    "weight infinite": record("metrics", MetricRecord({"num-examples": float("inf")})),
    "weight zero": record("metrics", MetricRecord({"num-examples": 0})),
    "weight negative": record("metrics", MetricRecord({"num-examples": -8})),
    "heavy": record("metrics", MetricRecord({"num-examples": 8_000})),
    "weight too large for a float": record("metrics", MetricRecord({"num-examples": 10**400})),
    "list of weights": record("metrics", MetricRecord({"num-examples": [8]})),
}


class HostileGrid(Nodes):
    """A grid on which some nodes also reply several times, in the name of strangers, or with unreadable messages."""

    def __init__(self, apps: Any, twice: set[int], strangers: set[int], unreadable: set[int]) -> None:
        super().__init__(apps)
        self.twice, self.strangers, self.unreadable = twice, strangers, unreadable

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for reply in super().send_and_receive(messages, timeout=timeout):
            node = reply.metadata.src_node_id
            if node in self.strangers:
                reply.metadata.__dict__["_src_node_id"] = node + 1000
            if node in self.unreadable:
                reply.__dict__["_content"] = None
            replies += [reply, reply] if node in self.twice else [reply]
        return replies


def strategy(rule: str) -> GuardedStrategy:
    torch.manual_seed(0)
    model = TinyNet()
    learner = Learner(model, torch.optim.SGD(model.parameters(), 1.0), cross_entropy)
    return GuardedStrategy(Server(learner, AGGREGATORS[rule]()))


@pytest.mark.parametrize(("rule", "rounds"), [("mean", 2), ("coordinate_median", 1)])
def test_fifty_hostile_nodes_are_named_and_change_nothing(rule: str, rounds: int, thorough: bool) -> None:
    draw = random.Random(0)
    drawn = [*HOSTILITIES, "twice", "stranger", "unreadable"]
    drawn += draw.choices(drawn, k=HOSTILE - len(drawn))
    nodes = draw.sample(range(HONEST + HOSTILE), HOSTILE)
    hostile = dict(zip(nodes, drawn, strict=True))
    apps: dict[int, Any] = {}
    for node in range(HONEST + HOSTILE):
        change = HOSTILITIES.get(hostile.get(node, ""), lambda content: None)
        apps[node] = None if change is None else honest(change=change)
    odd = {kind: {n for n, k in hostile.items() if k == kind} for kind in ("twice", "stranger", "unreadable")}
    attacked, alone = strategy(rule), strategy(rule)
    rounds = 10 if thorough else rounds
    grid = HostileGrid(apps, odd["twice"], odd["stranger"], odd["unreadable"])
    result = attacked.start(grid, num_rounds=rounds)
    alone.start(Nodes({n: honest() for n in range(HONEST + HOSTILE) if n not in hostile}), num_rounds=rounds)
    assert len(attacked.rounds) == rounds
    for number, outcome in enumerate(attacked.rounds, 1):
        named = {int(name.removeprefix("node-")) for name in outcome.rejected_clients}
        assert named - {n + 1000 for n in odd["stranger"]} == set(hostile)
        assert outcome.record.verdict.committed
        assert result.train_metrics_clientapp[number]["loss"] == 1.5
    for name, value in alone.server.learner.model.state_dict().items():
        torch.testing.assert_close(attacked.server.learner.model.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("kind", HOSTILITIES)
def test_each_hostility_is_named(kind: str) -> None:
    change, found = HOSTILITIES[kind], strategy("mean")
    apps = {1: honest(), 2: None if change is None else honest(change=change), 5: honest()}
    found.start(Nodes(apps), num_rounds=1)
    assert list(found.rounds[0].rejected_clients) == ["node-2"]
    assert found.rounds[0].record.verdict.committed


def test_metrics_of_honest_replies_with_odd_numbers_stop_nothing() -> None:
    def odd(content: RecordDict) -> None:
        metrics = {"num-examples": 8, "loss": 10**400, "other": float("nan"), "committed": 7}
        content["metrics"] = MetricRecord(metrics)

    found = strategy("mean")
    result = found.start(Nodes({1: honest(change=odd), 2: honest(change=odd), 3: honest()}), num_rounds=1)
    assert found.rounds[0].rejected_clients == {}
    assert result.train_metrics_clientapp[1]["committed"] == 1
    assert "loss" not in result.train_metrics_clientapp[1]
