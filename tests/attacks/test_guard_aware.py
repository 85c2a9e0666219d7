"""The attacker who knows the guard: what he tries leaves no trace, and he feeds the worst that passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Batch, Guard, Learner, Phase, SnapshotBuffer
from taster.attacks import CraftingSettings, GuardSimulator, guard_aware
from taster.attacks.online_attack import poison_mask
from taster.core.guard import CandidateUpdate
from taster.core.verdict import COMMIT, Verdict, reject
from taster.derivatives import Derivatives, DiffMethod


class Bound:
    """A gate that refuses batches of too great a loss, and counts what it sees."""

    name = "bound"

    def __init__(self, greatest: float) -> None:
        self.greatest = greatest
        self.seen = 0

    def __call__(self, change: CandidateUpdate) -> Verdict:
        assert change.loss is not None
        return reject("too great") if change.loss > self.greatest else COMMIT

    def observe(self, record: Any, view: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def victim(guard: Guard | None = None) -> Learner:
    learner = tiny_learner(guard=guard, snapshots=SnapshotBuffer(capacity=2))
    for i in range(4):
        learner.step(tiny_batch(seed=i))
    return learner


def simulated(greatest: float = 1e9, held_out: Batch | None = None) -> tuple[GuardSimulator, Learner]:
    copy = tiny_learner(seed=5, guard=Guard(gates=[Bound(greatest)]), snapshots=SnapshotBuffer(capacity=2))
    return GuardSimulator(copy, tiny_batch(30, seed=70) if held_out is None else held_out), copy


def test_the_simulator_copies_the_victims_state_but_not_its_guards() -> None:
    learner, (stage, copy) = victim(Guard(gates=[Bound(1e9)])), simulated()
    stage.sync(learner)
    assert same_state(full_state(learner), full_state(copy))
    assert learner.guard.gates[0].seen == 4
    assert copy.guard.gates[0].seen == 0
    record = learner.step(tiny_batch(seed=9))
    stage.sync(learner, record)
    assert copy.guard.gates[0].seen == 1
    assert copy.steps == learner.steps


def test_what_is_tried_out_leaves_no_trace() -> None:
    learner, (stage, copy) = victim(), simulated()
    stage.sync(learner)
    twin = victim()
    before, steps, random = full_state(copy), copy.snapshots.steps if copy.snapshots else (), torch.get_rng_state()
    outcome = stage.simulate(tiny_batch(seed=30), tiny_batch(seed=31))
    assert outcome.committed == (True, True)
    assert same_state(before, full_state(copy))
    assert copy.snapshots is not None
    assert copy.snapshots.steps == steps
    assert copy.guard.gates[0].seen == 0
    assert torch.equal(random, torch.get_rng_state())
    for seed in (30, 31):
        twin.step(tiny_batch(seed=seed))
    held_out = tiny_batch(30, seed=70)
    assert outcome.accuracy == twin.view().accuracy(held_out.x, held_out.y)
    assert stage.simulate(tiny_batch(seed=30), tiny_batch(seed=31)) == outcome


def campaign(stage: GuardSimulator, **settings: Any) -> Any:
    return guard_aware(
        tiny_batch(seed=50),
        lambda n: tiny_batch(n, seed=60),
        torch.Generator().manual_seed(0),
        stage,
        Derivatives(DiffMethod("double_backward")),
        crafting=CraftingSettings(epsilon=0.3, pgd_steps=3),
        **settings,
    )


@pytest.mark.parametrize("phase", [Phase.ACCUMULATE, Phase.TRIGGER])
def test_the_worst_that_passes_is_fed(phase: Phase) -> None:
    learner = victim()
    clean = tiny_batch(seed=50)
    stage, _ = simulated()
    stage.sync(learner)
    free = campaign(stage).poison(clean, learner.view(), phase)
    assert bool(poison_mask(free, clean).any())
    plain = float(learner.view().loss(clean.x, clean.y, batch_norm="train"))
    strict, copy = simulated(plain + 0.003)
    strict.sync(learner)
    fed = campaign(strict, perturbation_scales=[1.0, 0.5, 0.05, 0.001]).poison(clean, learner.view(), phase)
    assert strict.simulate(fed).committed == (True,)
    assert same_state(full_state(learner), full_state(copy))


def test_if_nothing_is_committed_poison_is_the_smallest_candidate() -> None:
    learner = victim()
    stage, _ = simulated(-1.0)
    stage.sync(learner)
    clean = tiny_batch(seed=50)
    attack = campaign(stage, perturbation_scales=[0.1, 1.0])
    assert torch.equal(attack.poison(clean, learner.view(), Phase.ACCUMULATE).x, clean.x)
    least = attack.poison(clean, learner.view(), Phase.TRIGGER).x
    assert float((least - clean.x).abs().max()) <= 0.03 + 1e-6
