"""What a learner checks at its door, and how its state travels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Guard, History, Learner, load_state, save_state
from taster.defences import probe_gate
from taster.errors import CheckpointError, ModelError
from tests.conftest import TinyNet, full_state, same_state, tiny_batch, tiny_learner


def test_an_optimizer_of_another_model_is_told() -> None:
    with pytest.raises(ModelError, match="none of the model's parameters"):
        Learner(TinyNet(), torch.optim.SGD(TinyNet().parameters(), lr=0.1), cross_entropy)


def test_an_optimizer_with_a_closure_is_told() -> None:
    model = TinyNet()
    with pytest.raises(ModelError, match="LBFGS"):
        Learner(model, torch.optim.LBFGS(model.parameters()), cross_entropy)


def test_an_unknown_precision_is_told() -> None:
    with pytest.raises(ModelError, match="bfloat16"):
        tiny_learner(precision="float8")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_state_travels_through_a_file(optimizer: str, tmp_path: Path) -> None:
    def make() -> Learner:
        guard = Guard() + probe_gate(tiny_batch(30, seed=99), tolerance=50)
        return tiny_learner(optimizer=optimizer, guard=guard, history=History(capacity=2))

    learner = make()
    for i in range(3):
        learner.feed(tiny_batch(seed=i))
    learner.history.pin("release", learner.snapshot())
    save_state(tmp_path / "learner.safetensors", learner.state_dict())
    other = make()
    other.load_state_dict(load_state(tmp_path / "learner.safetensors"))
    assert same_state(full_state(learner), full_state(other))
    assert other.steps == 3
    assert other.history.steps == learner.history.steps
    (theirs,), (ours,) = other.guard.state_dict(), learner.guard.state_dict()
    for moment in ("anchor", "last"):
        for what in ("probability", "right"):
            assert torch.equal(theirs[moment][what], ours[moment][what])
    for i in range(3, 6):
        learner.feed(tiny_batch(seed=i))
        other.feed(tiny_batch(seed=i))
    assert same_state(full_state(learner), full_state(other))


def test_the_state_of_another_model_is_told_and_nothing_is_loaded() -> None:
    learner = tiny_learner()
    learner.feed(tiny_batch())
    before = full_state(learner)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    other = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    with pytest.raises(CheckpointError, match="another model"):
        learner.load_state_dict(other.state_dict())
    with pytest.raises(CheckpointError, match="without"):
        learner.load_state_dict({"model": {}})
    guarded = tiny_learner(guard=probe_gate(tiny_batch()))
    with pytest.raises(CheckpointError, match="other stages"):
        learner.load_state_dict(guarded.state_dict())
    assert same_state(before, full_state(learner))


def test_parameters_outside_the_model_are_told() -> None:
    model, temperature = TinyNet(), nn.Parameter(torch.ones(1))
    with pytest.raises(ModelError, match="1 parameters outside the model"):
        Learner(model, torch.optim.SGD([*model.parameters(), temperature], lr=0.1), cross_entropy)


def test_loading_takes_the_place_of_what_was_there() -> None:
    empty, full = tiny_learner(history=History()), tiny_learner(history=History())
    full.feed(tiny_batch())
    full.history.pin("old", full.snapshot())
    full.load_state_dict(empty.state_dict())
    assert full.history.steps == ()
    assert full.history.pinned == ()


def test_a_loaded_state_is_not_written_into() -> None:
    learner, other = tiny_learner(), tiny_learner()
    learner.feed(tiny_batch())
    state = learner.state_dict()
    kept = [s["momentum_buffer"].clone() for s in state["optimizer"]["state"].values()]
    other.load_state_dict(state)
    other.feed(tiny_batch(seed=1))
    now = [s["momentum_buffer"] for s in state["optimizer"]["state"].values()]
    assert all(map(torch.equal, kept, now))
