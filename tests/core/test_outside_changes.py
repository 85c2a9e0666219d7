"""What something else does to the model between steps is noticed."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.core.zoo import batch
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Action, Guard, Learner, SnapshotBuffer, rewind
from taster.errors import ModelError, StaleViewError


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def test_weights_loaded_from_outside_are_never_rewound_away(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    guard = Guard(gates=[lambda update: rewind(1, "back") if update.step >= 5 else _commit()])
    subject = Learner(
        model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, guard, snapshots=SnapshotBuffer(capacity=5)
    )
    for seed in range(5):
        subject.step(batch(seed))
    better = net().state_dict()
    model.load_state_dict(better)
    with caplog.at_level(logging.WARNING):
        record = subject.step(batch(5))  # the state that was loaded is the oldest there is to go back to
    assert record.verdict.action is Action.REWIND
    assert record.verdict.steps == 0
    assert "changed from outside" in caplog.text
    assert all(torch.equal(value, better[name]) for name, value in model.state_dict().items())
    assert subject.snapshots is not None
    assert min(subject.snapshots.steps, default=5) >= 5


def test_the_state_after_a_change_from_outside_is_the_oldest_to_rewind_to() -> None:
    model = net()
    guard = Guard(gates=[lambda update: rewind(2, "back") if update.step == 7 else _commit()])
    subject = Learner(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        cross_entropy,
        guard,
        snapshots=SnapshotBuffer(capacity=3, every=4),
    )
    for seed in range(5):
        subject.step(batch(seed))
    better = net().state_dict()
    model.load_state_dict(better)
    for seed in range(5, 8):
        record = subject.step(batch(seed))
    assert record.verdict.steps == 2
    assert all(torch.equal(value, better[name]) for name, value in model.state_dict().items())


def _commit():
    from taster import COMMIT

    return COMMIT


def test_a_change_of_buffers_alone_drops_no_snapshot() -> None:
    model = net()
    subject = Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, snapshots=SnapshotBuffer(3))
    for seed in range(3):
        subject.step(batch(seed))
    view = subject.view()
    model(batch(9).x)  # writes batch-norm statistics
    assert subject.snapshots is not None
    assert subject.view().state_version is not view.state_version
    assert subject.snapshots.steps == (0, 1, 2)
    with pytest.raises(StaleViewError):
        _ = view.params


def test_steps_and_loads_of_the_learner_itself_are_no_change_from_outside(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    subject = Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, snapshots=SnapshotBuffer(3))
    subject.step(batch(0))
    subject.load_state_dict(subject.state_dict())
    subject.step(batch(1))
    with subject.dry_run():
        nn.init.zeros_(model[0].weight)
    subject.step(batch(2))
    assert "outside" not in caplog.text


def test_a_replaced_layer_whose_optimizer_is_the_old_one_is_named() -> None:
    model = net()
    subject = Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy)
    subject.step(batch(0))
    model[2] = nn.Linear(6, 3)
    with pytest.raises(ModelError, match="outside the model"):
        subject.step(batch(1))
