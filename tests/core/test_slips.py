"""Slips that people make when they put a guard around their loop: each has a sentence of ours, before anything runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch, tiny_learner
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import taster
from taster import Guarded, Learner
from taster.errors import BatchError, CheckpointError, GuardError, LabelError, LossError, SettingError, TransactionError


def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = TinyNet()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("wrong", [tiny_batch(), taster.guard, "guard"])
def test_something_else_in_the_place_of_the_guard(wrong: Any) -> None:
    with pytest.raises(GuardError, match=r"as the guard, wanted a taster.Guard: taster.guard\(probe\)"):
        Learner(*parts(), cross_entropy, wrong)
    with pytest.raises(GuardError, match="as the guard"):
        Guarded(*parts(), wrong)


def test_something_else_in_the_place_of_the_loss() -> None:
    with pytest.raises(GuardError, match="a guard in the place of the loss"):
        Learner(*parts(), taster.Guard())  # type: ignore[arg-type]
    with pytest.raises(LossError, match=r"CrossEntropyLoss\(\)"):
        Learner(*parts(), CrossEntropyLoss)
    with pytest.raises(LossError, match="got a str as the loss"):
        Learner(*parts(), "cross_entropy")  # type: ignore[arg-type]


def test_samples_that_are_their_own_targets() -> None:
    with pytest.raises(BatchError, match=r"step\(x, x\)"):
        tiny_learner().step(tiny_batch().x)


@pytest.mark.parametrize("task", [3, "clasification"])
def test_a_task_that_is_none(task: Any) -> None:
    with pytest.raises(SettingError, match="wanted one of classification"):
        taster.guard(tiny_batch(20), task=task)


def test_tokens_want_sequences() -> None:
    with pytest.raises(LabelError, match=r"wanted \[n, length\]"):
        taster.guard(tiny_batch(20), task="next_tokens")


def test_a_probe_that_is_a_list_of_samples() -> None:
    with pytest.raises(BatchError, match="DataLoader"):
        taster.guard([{"x": torch.zeros(3)}])


def test_evaluate_without_a_tolerance_and_with_one_that_lets_everything_through() -> None:
    with pytest.raises(SettingError, match="without a tolerance"):
        taster.guard(evaluate=lambda model: model)
    batch = tiny_batch(20)
    guard = taster.guard(evaluate=lambda model: model(batch.x).argmax(1) == batch.y, tolerance=1.0)
    with pytest.raises(GuardError, match=r"0\.01 for one point"):
        Learner(*parts(), cross_entropy, guard)


def test_an_evaluation_of_another_model_is_said(caplog: pytest.LogCaptureFixture) -> None:
    other, batch = TinyNet(), tiny_batch(20)
    guard = taster.guard(evaluate=lambda model: other(batch.x).argmax(1) == batch.y, tolerance=0.01)
    with caplog.at_level(logging.WARNING):
        Learner(*parts(), cross_entropy, guard)
    assert caplog.text.count("ran no layer of the model") == 1
    caplog.clear()
    own = taster.guard(evaluate=lambda model: model(batch.x).argmax(1) == batch.y, tolerance=0.01)
    with caplog.at_level(logging.WARNING):
        Learner(*parts(), cross_entropy, own)
    assert "ran no layer" not in caplog.text


def test_one_companion_needs_no_list() -> None:
    model, optimizer = parts()
    average = AveragedModel(model)
    assert Guarded(model, optimizer, also=average).state.also == (average,)


def test_a_step_without_its_block() -> None:
    guarded = Guarded(*parts())
    with pytest.raises(TransactionError, match=r"with guarded\.step"):
        _ = guarded.step().refused


def test_the_state_of_another_kind_of_optimizer() -> None:
    adam = tiny_learner(optimizer="adamw")
    adam.step(tiny_batch())
    other = tiny_learner()
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(CheckpointError, match="wanted that of a SGD"):
        other.load_state_dict(adam.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in other.model.state_dict().items())
    assert other.step(tiny_batch()).verdict.committed


def test_paths_that_are_none(tmp_path: Path) -> None:
    state = tiny_learner().state_dict()
    with pytest.raises(CheckpointError, match=r"wanted save_state\(path, state\)"):
        taster.save_state(state, tmp_path / "state")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="there is no folder"):
        taster.save_state(tmp_path / "missing" / "state", state)
