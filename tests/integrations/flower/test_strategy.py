"""taster's server as a strategy: faulty nodes, refused rounds, buffers, state."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason='needs the extra: pip install "taster[flower]"')

import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from tests.conftest import TinyNet, full_state, same_state
from tests.integrations.flower.nodes import Nodes, honest, learned
from torch.nn.functional import cross_entropy

import taster
from taster import CandidateUpdate, Guard, Learner, SnapshotBuffer, Verdict, reject, rewind
from taster.core.verdict import COMMIT
from taster.errors import BatchError, CheckpointError, ExtraError, ModelError
from taster.federated import AggregationRule, Server, krum, mean, update_clipping
from taster.integrations.flower import GuardedStrategy, model_arrays


def server(guard: Guard | None = None, rule: Any = mean, **options: Any) -> Server:
    torch.manual_seed(0)
    model = TinyNet()
    return Server(Learner(model, torch.optim.SGD(model.parameters(), 1.0), cross_entropy, guard, **options), rule)


def trained(start: dict[str, torch.Tensor], node: int) -> dict[str, torch.Tensor]:
    model = TinyNet()
    model.load_state_dict(start)
    learned(model, node)
    return model.state_dict()


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_mean_of_weights_is_that_of_fedavg_buffers_too() -> None:
    strategy = GuardedStrategy(server())
    start = copied(strategy.server.learner.model)
    result = strategy.start(Nodes({i: honest() for i in range(4)}), num_rounds=1)
    own = [trained(start, node) for node in range(4)]
    for name, value in strategy.server.learner.model.state_dict().items():
        if value.is_floating_point():
            wanted = torch.stack([weights[name] for weights in own]).mean(0)
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6, msg=name)
            assert torch.equal(torch.from_numpy(result.arrays[name].numpy()), value)
    assert not torch.equal(start["bn.running_mean"], strategy.server.learner.model.bn.running_mean)
    metrics = result.train_metrics_clientapp[1]
    assert dict(metrics) == {"loss": 1.5, "committed": 1, "rejected": 0, "rewound": 0, "clients": 4, "dropped": 0}


@pytest.mark.parametrize("rule", [krum(num_byzantine=1), update_clipping(max_norm=1.0)], ids=["krum", "clipped"])
def test_buffers_go_by_the_median_where_the_rule_is_robust_and_can_be_left_alone(rule: AggregationRule) -> None:
    def wild(content: RecordDict) -> None:
        content["arrays"]["bn.running_var"] = Array(torch.full((4,), 1e6).numpy())

    apps = {i: honest(change=wild) if i == 0 else honest() for i in range(5)}
    strategy = GuardedStrategy(server(rule=rule))
    start = copied(strategy.server.learner.model)
    strategy.start(Nodes(apps), num_rounds=1)
    found = strategy.server.learner.model.bn.running_var
    ranked = torch.stack([trained(start, node)["bn.running_var"] for node in range(1, 5)]).sort(0).values
    assert bool(((found >= ranked[0]) & (found <= ranked[-1])).all())
    strategy = GuardedStrategy(server(rule=rule), buffers=False)
    strategy.start(Nodes(apps), num_rounds=1)
    assert torch.equal(strategy.server.learner.model.bn.running_var, start["bn.running_var"])


def broken(kind: str) -> ClientApp | None:
    def nan(content: RecordDict) -> None:
        content["arrays"]["fc.bias"] = Array(torch.full((3,), float("nan")).numpy())

    def nan_buffer(content: RecordDict) -> None:
        content["arrays"]["bn.running_mean"] = Array(torch.full((4,), float("inf")).numpy())

    def shape(content: RecordDict) -> None:
        content["arrays"]["fc.bias"] = Array(torch.zeros(4).numpy())

    def missing(content: RecordDict) -> None:
        del content["arrays"]["fc.bias"]

    def huge(content: RecordDict) -> None:
        content["arrays"]["fc.bias"] = Array("float32", (3,), "numpy.ndarray", b"0" * 100_000)

    def junk(content: RecordDict) -> None:
        content["arrays"]["fc.bias"] = Array("float32", (3,), "numpy.ndarray", b"not numbers")

    def two(content: RecordDict) -> None:
        content["more"] = ArrayRecord(dict(content["arrays"]))

    def heavy(content: RecordDict) -> None:
        content["metrics"] = MetricRecord({"num-examples": 8_000})

    def unweighted(content: RecordDict) -> None:
        content["metrics"] = MetricRecord({"loss": 1.0})

    def raises(content: RecordDict) -> None:
        raise RuntimeError("out of luck")

    return None if kind == "silent" else honest(change=locals()[kind])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("silent", "sent nothing"),
        ("raises", "failed: out of luck"),
        ("nan", "NaN or infinity"),
        ("nan_buffer", "buffers with NaN or infinity"),
        ("shape", "'fc.bias' of shape [4], wanted [3]"),
        ("missing", "sent no 'fc.bias'"),
        ("huge", "sent 100000 bytes as 'fc.bias'"),
        ("junk", "in a form that cannot be read"),
        ("two", "sent 2 records of arrays, wanted one"),
        ("heavy", "claims a weight of 8000"),
        ("unweighted", "sent 0 metrics 'num-examples'"),
    ],
)
def test_a_faulty_node_is_dropped_by_name_and_the_round_goes_on(kind: str, said: str) -> None:
    strategy, alone = GuardedStrategy(server()), GuardedStrategy(server())
    apps: dict[int, ClientApp | None] = {1: honest(), 2: broken(kind), 5: honest()}
    result = strategy.start(Nodes(apps), num_rounds=1)
    assert list(strategy.rounds[0].rejected_clients) == ["node-2"]
    assert said in strategy.rounds[0].rejected_clients["node-2"]
    assert result.train_metrics_clientapp[1]["dropped"] == 1
    alone.start(Nodes({1: honest(), 5: honest()}), num_rounds=1)
    for name, value in alone.server.learner.model.state_dict().items():
        torch.testing.assert_close(strategy.server.learner.model.state_dict()[name], value, msg=name)


def test_a_round_without_any_answer_changes_nothing() -> None:
    strategy = GuardedStrategy(server())
    before = full_state(strategy.server.learner)
    strategy.start(Nodes({1: None, 2: None}), num_rounds=1)
    assert same_state(full_state(strategy.server.learner), before)
    assert strategy.rounds[0].rejected_clients == {"node-1": "sent nothing", "node-2": "sent nothing"}
    assert strategy.rounds[0].record.verdict.action.name == "REJECT"


class Says:
    """A gate that says what it is told to, call by call."""

    max_rewind = 2

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)

    def __call__(self, change: CandidateUpdate) -> Verdict:
        return self.verdicts[change.step] if change.step < len(self.verdicts) else COMMIT


def test_what_the_guard_refuses_or_rewinds_is_not_what_clients_are_sent() -> None:
    gate = Says(COMMIT, COMMIT, reject("bad"), rewind(2, "worse"), COMMIT)
    strategy = GuardedStrategy(server(Guard(gates=[gate]), snapshots=SnapshotBuffer(capacity=8)))
    nodes = Nodes({1: honest(), 2: honest()})
    result = strategy.start(nodes, num_rounds=5)
    sent = [m.content["arrays"] for m in nodes.got if m.metadata.dst_node_id == 1 and "arrays" in m.content]
    sent = [{k: a.data for k, a in arrays.items()} for arrays in sent[::2]]  # every other asks for evaluation
    assert sent[2] != sent[1] != sent[0]
    assert sent[3] == sent[2]  # refused: buffers too
    assert sent[4] == sent[1]  # two steps before the fourth round's
    metrics = [result.train_metrics_clientapp[i] for i in range(1, 6)]
    assert [(m["committed"], m["rejected"], m["rewound"]) for m in metrics] == [
        (1, 0, 0),
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 2),
        (1, 0, 0),
    ]


def test_a_saved_state_goes_on_in_the_same_bits(tmp_path: Path) -> None:
    def apps() -> Nodes:
        return Nodes({i: honest() for i in range(3)})

    whole = GuardedStrategy(server())
    whole.start(apps(), num_rounds=4)
    part = GuardedStrategy(server(), on_round=lambda _: taster.save_state(tmp_path / "state", part.state_dict()))
    part.start(apps(), num_rounds=2)
    again = GuardedStrategy(server())
    again.load_state_dict(taster.load_state(tmp_path / "state"))
    nodes = apps()
    again.start(nodes, num_rounds=2)
    assert same_state(full_state(again.server.learner), full_state(whole.server.learner))
    assert nodes.rounds == [3, 3, 3, 4, 4, 4]
    with pytest.raises(CheckpointError, match="without 'learner'"):
        again.load_state_dict({})


def test_metrics_of_evaluation_are_medians_of_those_that_work() -> None:
    failing = ClientApp()
    strategy = GuardedStrategy(server())
    result = strategy.start(Nodes({**{i: honest() for i in range(4)}, 9: failing}), num_rounds=1)
    assert dict(result.evaluate_metrics_clientapp[1]) == {"accuracy": 51.5}


def test_arrays_to_begin_with_are_taken_or_refused() -> None:
    strategy = GuardedStrategy(server())
    torch.manual_seed(7)
    other = TinyNet()
    nodes = Nodes({1: honest(), 2: honest()})
    strategy.start(nodes, model_arrays(other), num_rounds=1)
    assert nodes.got[0].content["arrays"]["fc.weight"].data == model_arrays(other)["fc.weight"].data
    before = copied(strategy.server.learner.model)
    with pytest.raises(ModelError, match="wanted \\[3, 4\\]"):
        strategy.start(nodes, model_arrays(TinyNet(classes=4)))
    with pytest.raises(ModelError, match="names differ in"):
        strategy.start(nodes, model_arrays(torch.nn.Linear(2, 2)))
    assert all(torch.equal(value, before[name]) for name, value in strategy.server.learner.model.state_dict().items())


@pytest.mark.parametrize(
    ("option", "said"), [({"sends": "secrets"}, "sends: got 'secrets'"), ({"unit": 0}, "unit: got 0")]
)
def test_a_form_that_there_is_not_is_told(option: dict[str, Any], said: str) -> None:
    with pytest.raises(BatchError, match=said):
        GuardedStrategy(server(), **option)


def test_without_flwr_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("taster.integrations.flower")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(ExtraError, match=r'pip install "taster\[flower\]"'):
        importlib.import_module("taster.integrations.flower")
