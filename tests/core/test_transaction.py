"""All or nothing, and the way back over several steps."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Action, Guard, SnapshotBuffer, StepRecord, View, rewind
from taster.core.guard import CandidateUpdate
from taster.core.verdict import COMMIT, Verdict
from taster.errors import SnapshotError, TransactionError


class RewindAt:
    """Asks once for a rewind."""

    def __init__(self, step: int, back: int) -> None:
        self.at, self.back = step, back

    def __call__(self, change: CandidateUpdate) -> Verdict:
        return rewind(self.back, "too late") if change.step == self.at else COMMIT


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_rewind_restores_an_older_state_bit_for_bit(optimizer: str, on_disk: bool, tmp_path) -> None:
    history = SnapshotBuffer(capacity=4, directory=tmp_path if on_disk else None)
    learner = tiny_learner(optimizer=optimizer, guard=Guard(gates=[RewindAt(5, 3)]), snapshots=history)
    states = []
    for i in range(6):
        states.append(full_state(learner))
        record = learner.step(tiny_batch(seed=i))
    assert record.verdict.action is Action.REWIND
    assert record.verdict.steps == 3
    assert same_state(full_state(learner), states[2])
    assert max(history.steps) == 2
    assert learner.steps == 6
    # Learning goes on from there as it would have then.
    twin = tiny_learner(optimizer=optimizer)
    for i in (0, 1, 7):
        twin.step(tiny_batch(seed=i))
    learner.step(tiny_batch(seed=7))
    assert same_state(full_state(learner), full_state(twin))


def test_a_rewind_takes_the_nearest_older_snapshot_and_says_how_far_it_went() -> None:
    learner = tiny_learner(guard=Guard(gates=[RewindAt(5, 2)]), snapshots=SnapshotBuffer(capacity=4, every=2))
    states = []
    for i in range(6):
        states.append(full_state(learner))
        record = learner.step(tiny_batch(seed=i))
    assert record.verdict.steps == 3  # snapshots lie before steps 0, 2 and 4
    assert same_state(full_state(learner), states[2])


@pytest.mark.parametrize("history", [None, SnapshotBuffer(capacity=2)])
def test_a_rewind_beyond_the_history_undoes_the_step_and_is_told(history: SnapshotBuffer | None) -> None:
    learner = tiny_learner(guard=Guard(gates=[RewindAt(5, 4)]), snapshots=history)
    for i in range(5):
        learner.step(tiny_batch(seed=i))
    before = full_state(learner)
    with pytest.raises(SnapshotError, match="napshot"):
        learner.step(tiny_batch(seed=5))
    assert same_state(before, full_state(learner))


def test_a_transaction_left_open_undoes_itself() -> None:
    learner = tiny_learner()
    before = full_state(learner)
    with learner.dry_run():
        learner.state.apply_gradient({name: torch.ones_like(p) for name, p in learner.model.named_parameters()})
        assert not same_state(before, full_state(learner))
    assert same_state(before, full_state(learner))


def test_the_copy_reuses_its_memory() -> None:
    learner = tiny_learner()
    learner.step(tiny_batch())
    learner.step(tiny_batch())
    kept = [t.data_ptr() for t in learner.state.backup._copies._kept]
    learner.step(tiny_batch())
    assert [t.data_ptr() for t in learner.state.backup._copies._kept] == kept


def test_gates_see_both_sides_of_the_update() -> None:
    seen: list[CandidateUpdate] = []
    moved: list[bool] = []

    def look(change: CandidateUpdate) -> Verdict:
        seen.append(change)
        moved.append(not torch.equal(change.before.params["fc.weight"], change.after.params["fc.weight"]))
        return COMMIT

    learner = tiny_learner(guard=Guard(gates=[look]))
    start = learner.model.fc.weight.detach().clone()
    learner.step(tiny_batch())
    assert moved == [True]
    assert torch.equal(seen[0].before.params["fc.weight"], start)
    assert torch.equal(seen[0].after.params["fc.weight"], learner.model.fc.weight)


def test_stages_that_keep_state_are_told_after_every_step_and_never_otherwise() -> None:
    class Counter:
        def __init__(self) -> None:
            self.records: list[StepRecord] = []

        def __call__(self, change: CandidateUpdate) -> Verdict:
            return COMMIT

        def observe(self, record: StepRecord, view: View) -> None:
            self.records.append(record)

        def state_dict(self) -> dict[str, int]:
            return {"count": len(self.records)}

        def load_state_dict(self, state: dict[str, int]) -> None:
            raise AssertionError

    counter = Counter()
    learner = tiny_learner(guard=Guard(gates=[counter]))
    batch = tiny_batch()
    learner.step(batch)
    batch.x[0] = float("nan")
    learner.step(batch)
    assert [r.step for r in counter.records] == [0, 1]
    assert [r.verdict.committed for r in counter.records] == [True, False]


def test_a_snapshot_survives_the_steps_after_a_rewind_to_it() -> None:
    class Twice:
        def __call__(self, change: CandidateUpdate) -> Verdict:
            return rewind(change.step - 2, "again") if change.step in (4, 7) else COMMIT

    learner = tiny_learner(guard=Guard(gates=[Twice()]), snapshots=SnapshotBuffer(capacity=9, every=2))
    states = []
    for i in range(8):
        states.append(full_state(learner))
        learner.step(tiny_batch(seed=i))
        if i in (4, 7):
            assert same_state(full_state(learner), states[2])


def test_one_transaction_at_a_time() -> None:
    learner = tiny_learner()
    before = full_state(learner)
    with pytest.raises(TransactionError, match="one at a time"), learner.dry_run():
        learner.step(tiny_batch())
    assert same_state(before, full_state(learner))
    assert learner.step(tiny_batch()).verdict.committed
