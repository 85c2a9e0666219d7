"""What a learner checks at its door, and how its state travels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import TinyNet, full_state, same_state, tiny_batch, tiny_learner
from tests.core.zoo import same
from torch import nn
from torch.nn.functional import cross_entropy

from taster import (
    COMMIT,
    Batch,
    Guard,
    Learner,
    ScreenedBatch,
    SnapshotBuffer,
    Verdict,
    View,
    load_state,
    reject,
    save_state,
)
from taster.defences import probe_gate
from taster.errors import BatchError, CheckpointError, ModelError


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
        return tiny_learner(optimizer=optimizer, guard=guard, snapshots=SnapshotBuffer(capacity=2))

    learner = make()
    for i in range(3):
        learner.step(tiny_batch(seed=i))
    learner.snapshots.pin("release", learner.snapshot())
    save_state(tmp_path / "learner.safetensors", learner.state_dict())
    other = make()
    other.load_state_dict(load_state(tmp_path / "learner.safetensors"))
    assert same_state(full_state(learner), full_state(other))
    assert other.steps == 3
    assert other.snapshots.steps == learner.snapshots.steps
    (theirs,), (ours,) = other.guard.state_dict(), learner.guard.state_dict()
    for what in ("probability", "correct"):
        assert torch.equal(theirs["anchor"]["measured"][what], ours["anchor"]["measured"][what])
    assert torch.equal(theirs["swings"]["probability"], ours["swings"]["probability"])
    assert theirs["seed"] == ours["seed"]  # each was made with one of its own
    for i in range(3, 6):
        learner.step(tiny_batch(seed=i))
        other.step(tiny_batch(seed=i))
    assert same_state(full_state(learner), full_state(other))
    assert torch.equal(
        learner.guard.state_dict()[0]["swings"]["probability"], other.guard.state_dict()[0]["swings"]["probability"]
    )


def test_the_state_of_another_model_is_told_and_nothing_is_loaded() -> None:
    learner = tiny_learner()
    learner.step(tiny_batch())
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
    empty, full = tiny_learner(snapshots=SnapshotBuffer()), tiny_learner(snapshots=SnapshotBuffer())
    full.step(tiny_batch())
    full.snapshots.pin("old", full.snapshot())
    full.load_state_dict(empty.state_dict())
    assert full.snapshots.steps == ()
    assert full.snapshots.labels == ()


def test_a_loaded_state_is_not_written_into() -> None:
    learner, other = tiny_learner(), tiny_learner()
    learner.step(tiny_batch())
    state = learner.state_dict()
    kept = [s["momentum_buffer"].clone() for s in state["optimizers"][0]["state"].values()]
    other.load_state_dict(state)
    other.step(tiny_batch(seed=1))
    now = [s["momentum_buffer"] for s in state["optimizers"][0]["state"].values()]
    assert all(map(torch.equal, kept, now))


@pytest.mark.parametrize("size", [1, 3, 5, 7, 12])
def test_micro_batches_add_up_to_the_batch(size: int) -> None:
    whole, parts = tiny_learner(), tiny_learner(micro_batch_size=size)
    for learner in (whole, parts):
        learner.model.eval()  # batch norm takes the statistics of what goes through at a time
    for i in range(5):
        batch = tiny_batch(12, seed=i)
        one, other = whole.step(batch), parts.step(batch)
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_micro_batches_of_weighted_samples_add_up() -> None:
    def halved(admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        return admitted.weight(torch.linspace(0, 1, len(admitted.batch)))

    records = []
    for options in ({}, {"micro_batch_size": 5}):
        learner = tiny_learner(guard=Guard(screens=[halved]), **options)
        learner.model.eval()
        records.append(learner.step(tiny_batch(12)))
    assert records[0].loss == pytest.approx(records[1].loss, rel=1e-5)
    assert records[0].gradient_norm_before == pytest.approx(records[1].gradient_norm_before, rel=1e-4)


def test_the_last_micro_batch_is_never_a_single_sample() -> None:
    seen: list[int] = []
    learner = tiny_learner(micro_batch_size=4)
    learner.model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert learner.step(tiny_batch(13)).verdict.committed
    assert seen == [4, 4, 5]
    with pytest.raises(BatchError, match="micro_batch_size 0"):
        tiny_learner(micro_batch_size=0)


def half(**options: Any) -> Learner:
    return tiny_learner(precision="float16", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), **options)


def test_float16_with_a_scaler_is_what_torch_does_by_hand() -> None:
    learner, twin = half(), tiny_learner()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i in range(5):
        batch = tiny_batch(seed=i)
        assert learner.step(batch).verdict.committed
        with torch.autocast("cpu", dtype=torch.float16):
            output = twin.model(batch.x)
        loss = cross_entropy(output.float(), batch.y)
        twin.optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(twin.optimizer)
        scaler.update()
    assert same_state(full_state(learner), full_state(twin))


def test_an_overflow_is_refused_and_the_scale_falls() -> None:
    learner = half()
    assert learner.scaler is not None
    before = full_state(learner)
    loud = tiny_batch()
    record = learner.step(Batch(loud.x, loud.y, 1e30))
    assert record.verdict.stage == "finite_values"
    assert same_state(before, full_state(learner))
    assert learner.scaler.get_scale() == 512.0
    assert learner.step(tiny_batch(seed=1)).verdict.committed


def test_the_scale_falls_at_any_step_and_a_refusal_by_a_gate_leaves_it() -> None:
    learner = half()
    scaler = learner.scaler
    assert scaler is not None
    learner.step(tiny_batch())
    loud = tiny_batch()
    assert learner.step(Batch(loud.x, loud.y, 1e30)).verdict.stage == "finite_values"
    assert scaler.get_scale() == 512.0
    before = copy.deepcopy(scaler.state_dict())
    learner.guard = Guard(gates=[lambda update: reject("no")])
    assert not learner.step(tiny_batch(seed=1)).verdict.committed
    assert scaler.state_dict() == before


def test_parts_of_a_batch_are_scaled_as_one() -> None:
    whole, parts = half(), half(micro_batch_size=4)
    # In eval mode, as batch norm has other statistics in parts.
    for learner in (whole, parts):
        learner.model.eval()
        learner.step(tiny_batch(8))
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_float16_wants_a_scaler() -> None:
    with pytest.raises(ModelError, match="GradScaler"):
        tiny_learner(precision="float16")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("seen", [0, 3])
def test_a_checkpoint_in_the_middle_of_a_step_is_of_the_state_before_it(
    optimizer: str, seen: int, tmp_path: Path
) -> None:
    """As a signal handler would write it, between the update and the verdict."""
    path = tmp_path / "learner.safetensors"

    class Saves:
        name = "saves"

        def __call__(self, change: Any) -> Verdict:
            save_state(path, learner.state_dict())
            return reject("no") if seen == 0 else COMMIT

    learner = tiny_learner(optimizer=optimizer, snapshots=SnapshotBuffer(capacity=2))
    for i in range(seen):
        learner.step(tiny_batch(seed=i))
    before, steps = full_state(learner), learner.steps
    learner.guard = Guard(gates=[Saves()])
    learner.step(tiny_batch(seed=9))
    other = tiny_learner(
        seed=5, optimizer=optimizer, guard=Guard(gates=[Saves()]), snapshots=SnapshotBuffer(capacity=2)
    )
    other.load_state_dict(load_state(path))
    assert same_state(before, full_state(other))
    assert other.steps == steps


def _broken_states() -> list[Any]:
    state = tiny_learner(guard=probe_gate(tiny_batch(30))).state_dict()
    broken: list[Any] = [None, [], 3, {}]
    for key in state:
        broken += [{k: v for k, v in state.items() if k != key}]
        broken += [
            {**state, key: value} for value in (None, 3, "x", [], {}, [[]], {"a": torch.ones(1)}, -1, 2**70, 1.5)
        ]
    return broken


def test_a_state_of_any_form_is_loaded_whole_or_refused_whole() -> None:
    learner = tiny_learner(guard=probe_gate(tiny_batch(30)))
    for i in range(3):
        learner.step(tiny_batch(seed=i))
    for broken in _broken_states():
        before = copy.deepcopy(learner.state_dict())
        try:
            learner.load_state_dict(broken)
        except CheckpointError:
            assert same(copy.deepcopy(learner.state_dict()), before)
        else:
            learner.load_state_dict(before)
    assert learner.step(tiny_batch(seed=9)).step == 3


def test_the_state_of_a_guard_with_another_probe_loads_nothing() -> None:
    one, other = (tiny_learner(seed=s, guard=probe_gate(tiny_batch(n))) for s, n in ((0, 30), (1, 40)))
    for learner in (one, other):
        learner.step(tiny_batch())
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError):
        other.load_state_dict(one.state_dict())
    assert same(copy.deepcopy(other.state_dict()), before)


def test_a_schedule_does_not_warn_after_a_first_step_that_was_undone() -> None:
    """Warnings are errors here: torch's, that the schedule was stepped before the optimizer."""
    model = TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, optimizer, cross_entropy, Guard(gates=[lambda update: reject("no")]))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    assert not learner.step(tiny_batch()).verdict.committed
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_schedulers_and_counters_travel_with_the_state() -> None:
    def scheduled(seed: int) -> tuple[Learner, torch.optim.lr_scheduler.StepLR]:
        torch.manual_seed(seed)
        model = TinyNet()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return Learner(model, optimizer, cross_entropy, schedulers=[scheduler]), scheduler

    learner, scheduler = scheduled(0)
    for i in range(3):
        learner.step(tiny_batch(seed=i))
        scheduler.step()
    other, its_scheduler = scheduled(1)
    other.load_state_dict(learner.state_dict())
    assert its_scheduler.last_epoch == 3
    assert other.optimizer.param_groups[0]["lr"] == 0.05
    assert dict(other.counters) == dict(learner.counters)
    with pytest.raises(CheckpointError, match="1 schedulers"):
        tiny_learner().load_state_dict(learner.state_dict())
