"""A world that changes between steps: heads that grow, layers thawed, weights loaded; frozen ones cost nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.core.guarded_zoo import RefusesAt, all_of, batch, make_step, network, refusing
from tests.core.zoo import same
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import taster
from taster import Batch, Guard, Guarded, Learner, SnapshotBuffer, rewind
from taster.defences import probe_gate
from taster.errors import CheckpointError, ModelError, TasterError

APIS = pytest.mark.parametrize("api", ["learner", "guarded"])


def made(api: str, model: nn.Module, guard: Guard | None = None, **options: Any) -> Any:
    trained = [p for p in model.parameters() if p.requires_grad]
    kind: Any = Learner if api == "learner" else Guarded
    return kind(model, torch.optim.SGD(trained, 0.1, momentum=0.9), guard=guard, loss=cross_entropy, **options)


def step(owner: Any, seed: int) -> taster.StepRecord:
    return owner.step(batch(seed)) if isinstance(owner, Learner) else make_step(owner, seed).record


class Backbone(nn.Module):
    """A layer that is mostly frozen, and a head."""

    def __init__(self, frozen: bool = True, width: int = 400) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, width), nn.ReLU()).requires_grad_(not frozen)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Remembers:
    """A gate that has learned something."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, update: Any) -> taster.Verdict:
        return taster.COMMIT

    def observe(self, record: Any, view: Any) -> None:
        self.losses = [*self.losses, record.loss or 0.0]

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])


def grown(head: nn.Linear) -> nn.Linear:
    larger = nn.Linear(head.in_features, head.out_features + 1)
    with torch.no_grad():
        larger.weight[: head.out_features] = head.weight
        larger.bias[: head.out_features] = head.bias
    return larger


@APIS
def test_a_head_that_grows(api: str) -> None:
    model = Backbone(frozen=False, width=8)
    guard = Guard(gates=[RefusesAt(5, verdict=rewind(1, "back")), Remembers()])
    owner = made(api, model, guard, snapshots=SnapshotBuffer(capacity=4))
    for i in range(3):
        step(owner, i)
    anchor = copy.deepcopy(owner.guard.state_dict())
    model.head = grown(model.head)
    with pytest.raises(ModelError, match=r"rebuild\(optimizer=\.\.\.\)"):
        step(owner, 3)
    owner.rebuild(optimizer=torch.optim.SGD(model.parameters(), 0.1))
    assert owner.snapshots.steps == ()
    assert owner.steps == 3
    assert same(owner.guard.state_dict(), anchor)
    assert len(anchor[1]["losses"]) == 3
    given = Batch(batch(3).x, torch.full((6,), 3))
    for _ in range(2):
        if api == "learner":
            assert owner.step(given).verdict.committed
        else:
            with owner.step(given) as one:
                cross_entropy(model(given.x), given.y).backward()
                owner.optimizer.step()
            assert not one.refused
    assert owner.view().params["head.weight"].shape == (4, 8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert step(owner, 5).verdict.steps == 1
    assert not same({n: p.detach() for n, p in model.named_parameters()}, before)


@APIS
@pytest.mark.parametrize("fault", ["optimizer of another", "guard does not fit", "nothing to learn"])
def test_a_rebuild_that_fails_changes_nothing(api: str, fault: str) -> None:
    model = network()
    guard = Guard(gates=[RefusesAt(3, verdict=rewind(2, "back"))]) + probe_gate(batch(50, n=40), tolerance=90)
    owner, twin = (made(api, m, copy.deepcopy(guard), snapshots=SnapshotBuffer(capacity=4)) for m in (model, network()))
    for i in range(3):
        step(owner, i)
        step(twin, i)
    other: nn.Module = nn.Sequential(nn.Linear(8, 2)) if fault == "guard does not fit" else network(7)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    state, view = dict(vars(owner.state)), owner.view().params
    other.requires_grad_(fault != "nothing to learn")
    with pytest.raises(TasterError):
        owner.rebuild(None if fault == "optimizer of another" else other, optimizer)
    assert {k: v for k, v in vars(owner.state).items() if k != "_last_seen"} == {
        k: v for k, v in state.items() if k != "_last_seen"
    }
    assert owner.model is model
    assert same(owner.view().params, view)
    for i in range(3, 6):  # a rewind still finds the snapshots of before
        assert step(owner, i).verdict == step(twin, i).verdict
    assert same(all_of(owner), all_of(twin))


@APIS
def test_layers_that_are_thawed(api: str) -> None:
    model = Backbone(width=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    kind: Any = Learner if api == "learner" else Guarded
    guard = Guard(gates=[RefusesAt(4, verdict=rewind(3, "back")), RefusesAt(5)])
    owner = kind(model, optimizer, guard=guard, loss=cross_entropy, snapshots=SnapshotBuffer(capacity=5))
    for i in range(3):
        step(owner, i)
    frozen = model.body[0].weight.detach().clone()
    model.body.requires_grad_(True)
    thawed = all_of(owner)
    step(owner, 3)
    assert owner.snapshots.steps == (3,)  # of before there is nothing to go back to
    assert not torch.equal(model.body[0].weight, frozen)
    assert step(owner, 4).verdict.steps == 1
    assert same(all_of(owner)["params"], thawed["params"])
    assert not step(owner, 5).verdict.committed
    assert same(all_of(owner)["params"], thawed["params"])


@APIS
def test_weights_loaded_from_elsewhere_are_not_rewound(api: str) -> None:
    model = network()
    guard = Guard(gates=[RefusesAt(3, verdict=rewind(3, "back"))])
    owner = made(api, model, guard, snapshots=SnapshotBuffer(capacity=5))
    for i in range(3):
        step(owner, i)
    model.load_state_dict(network(9).state_dict())
    assert step(owner, 3).verdict.steps == 0  # beyond the step itself
    assert same(dict(model.state_dict()), dict(network(9).state_dict()))


@APIS
def test_frozen_weights_cost_nothing(api: str) -> None:
    model = Backbone()
    owner = made(api, model, refusing(2), snapshots=SnapshotBuffer(capacity=3))
    for i in range(3):
        step(owner, i)
    head = sum(p.numel() for p in model.head.parameters()) * 4
    body = sum(p.numel() for p in model.body.parameters()) * 4
    assert body > 2 * head
    assert owner.state.backup.nbytes == 2 * head  # with the momentum
    assert set(owner.snapshots.at(2).params) == {"head.weight", "head.bias"}
    state = owner.state_dict()
    assert set(state["model"]) == {"head.weight", "head.bias"}
    again = made(api, Backbone(), refusing(2), snapshots=SnapshotBuffer(capacity=3))
    again.load_state_dict(state)
    assert same(all_of(again)["params"], all_of(owner)["params"])
    other = Backbone()
    nn.init.ones_(other.body[0].weight)
    with pytest.raises(CheckpointError, match="other frozen weights"):
        made(api, other, refusing(2), snapshots=SnapshotBuffer(capacity=3)).load_state_dict(state)


class Teacher(nn.Module):
    """A student, and a teacher that follows it without a gradient of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = nn.Linear(8, 3), nn.Linear(8, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x) + 0.1 * self.teacher(x)

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 0.1)


def test_a_step_that_writes_into_frozen_weights_wants_them_to_join() -> None:
    def block(owner: Guarded, seed: int) -> Any:
        with owner.step() as one:
            cross_entropy(owner.model(batch(seed).x), batch(seed).y).backward()
            owner.optimizer.step()
            owner.model.follow()
            owner.optimizer.zero_grad()
        return one

    model = Teacher()
    with pytest.raises(ModelError, match=r"teacher.weight, teacher.bias.*also=\[module\]"):
        block(made("guarded", model), 0)
    model = Teacher()
    guard = Guard(gates=[RefusesAt(1), RefusesAt(3, verdict=rewind(1, "back"))])
    owner = made("guarded", model, guard, also=[model.teacher], snapshots=SnapshotBuffer(capacity=3))
    states = []
    for i in range(4):
        states.append(all_of(owner))
        block(owner, i)
        if i == 1:
            assert same(all_of(owner), states[1])
    assert same(all_of(owner), states[2])
    fresh = Teacher()
    again = made("guarded", fresh, guard, also=[fresh.teacher], snapshots=SnapshotBuffer(capacity=3))
    again.load_state_dict(copy.deepcopy(owner.state_dict()))
    assert same(all_of(again), all_of(owner))
