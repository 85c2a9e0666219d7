"""Attackers who know what a guard learns from: each does what it says, within its budget, and leaves no trace."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.attacks.conftest import draw_easy, easy_batch, easy_learner, make_attack
from tests.conftest import full_state, same_state, tiny_batch

from taster import Batch, Guard, Learner, Phase
from taster.attacks import GuardSimulator
from taster.attacks.online_attack import poison_mask
from taster.attacks.strength import at_strength, is_committed, strongest
from taster.core.guard import CandidateUpdate
from taster.core.step_record import StepRecord
from taster.core.verdict import COMMIT, Verdict, reject
from taster.core.view import View

EPSILON = 0.3
COMMON: dict[str, Any] = {"epsilon": EPSILON, "pgd_steps": 3, "validation_size": 40}


def probability(view: View) -> float:
    """The mean probability of the true class on samples of the gate's own, in points."""
    own = easy_batch(200, seed=500)
    return 100 * float(view.outputs(own.x).softmax(1).gather(1, own.y[:, None]).mean())


class Swinging:
    """A gate that refuses drops beyond a limit, which is a multiple of the greatest change that it has let through."""

    name = "swinging"

    def __init__(self, limit: float, growth: float = 2.0) -> None:
        self.limit = limit
        self.growth = growth
        self.last: float | None = None
        self.refused = 0

    def __call__(self, change: CandidateUpdate) -> Verdict:
        drop = probability(change.before) - probability(change.after)
        return reject("an outlier") if drop > self.limit else COMMIT

    def observe(self, record: StepRecord, view: View) -> None:
        now = probability(view)
        self.refused += not record.verdict.committed
        if record.verdict.committed and self.last is not None:
            self.limit = max(self.limit, self.growth * abs(self.last - now))
        self.last = now

    def state_dict(self) -> dict[str, Any]:
        return {"limit": self.limit, "last": self.last, "refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.limit, self.last, self.refused = state["limit"], state["last"], state["refused"]


def guarded(limit: float, growth: float = 2.0) -> Learner:
    learner = easy_learner(smooth=True, rate=0.05)
    return Learner(
        learner.model, learner.optimizer, learner.state.objective.loss, Guard(gates=[Swinging(limit, growth)])
    )


def rehearsed(limit: float, growth: float = 2.0) -> GuardSimulator:
    return GuardSimulator(guarded(limit, growth), easy_batch(100, seed=700))


def attack_of(name: str, stage: GuardSimulator | None, seed: int = 0, **settings: Any) -> Any:
    given = {"draw_validation": draw_easy, "simulator": stage, "trigger": easy_batch(20, seed=50)}
    return make_attack(name, seed=seed, given=given, **COMMON, **settings)


def fight(
    attack: Any, victim: Learner, stage: GuardSimulator | None, steps: int = 12
) -> tuple[list[float], list[Batch]]:
    """The true class's probability before each step and at the end, and what was fed."""
    levels, fed, record = [probability(victim.view())], [], None
    for i in range(steps):
        if stage is not None:
            stage.sync(victim, record)
        clean = easy_batch(20, seed=2000 + i)
        before = full_state(victim)
        fed.append(attack.poison(clean, victim.view(), Phase.ACCUMULATE))
        assert same_state(before, full_state(victim))
        assert float((fed[-1].x - clean.x).abs().max()) <= EPSILON + 1e-6
        assert torch.equal(fed[-1].y, clean.y)
        assert fed[-1].loss_weight <= attack.budget.max_loss_weight
        record = victim.step(fed[-1])
        levels.append(probability(victim.view()))
    return levels, fed


def test_a_strength_lies_between_the_clean_batch_and_the_poison() -> None:
    clean = tiny_batch(8, seed=1)
    poison = Batch((clean.x + 0.2).clamp(0, 1), clean.y, 5.0)
    assert at_strength(clean, poison, 0.0) is clean
    whole, half = at_strength(clean, poison, 1.0), at_strength(clean, poison, 0.5)
    assert torch.allclose(whole.x, poison.x)
    assert whole.loss_weight == 5.0
    assert torch.allclose(half.x, (clean.x + poison.x) / 2)
    assert half.loss_weight == 3.0


def test_the_search_comes_as_close_to_the_limit_as_it_halves() -> None:
    victim, stage = guarded(0.3, 0.0), rehearsed(0.3, 0.0)
    stage.sync(victim)
    wrong = easy_batch(20, seed=3)
    harmful = Batch(wrong.x, (wrong.y + 1) % 3, 200.0)

    def make(strength: float) -> Batch:
        return Batch(harmful.x, harmful.y, strength * harmful.loss_weight)

    assert not is_committed(stage.simulate(make(1.0)))
    assert strongest(stage, make, is_committed, 0) is None
    found = strongest(stage, make, is_committed, 10)
    assert found is not None
    strength, batch, outcome = found
    assert is_committed(outcome)
    assert batch.loss_weight == pytest.approx(strength * 200.0)
    assert not is_committed(stage.simulate(make(strength + 1 / 2**10)))


def test_swings_are_widened_until_a_great_harm_is_committed() -> None:
    first = 0.2
    victim, stage = guarded(first), rehearsed(first)
    levels, fed = fight(attack_of("swing_widening", stage, loss_scale=20.0, halvings=6), victim, stage, steps=16)
    gate: Any = victim.guard.gates[0]
    worst = max(before - after for before, after in itertools.pairwise(levels))
    assert gate.limit > 3 * first
    assert worst > 2 * first
    # Harm and repair in turn: the level is regained before it is left again.
    assert any(after > before for before, after in itertools.pairwise(levels))
    assert gate.refused <= 4
    other = rehearsed(first)
    again = fight(attack_of("swing_widening", other, loss_scale=20.0, halvings=6), guarded(first), other, steps=16)
    assert again[0] == levels
    assert all(torch.equal(a.x, b.x) for a, b in zip(fed, again[1], strict=True))


def test_against_a_limit_that_stays_there_is_nothing_to_widen() -> None:
    victim, stage = guarded(0.2, 0.0), rehearsed(0.2, 0.0)
    levels, _ = fight(attack_of("swing_widening", stage, loss_scale=20.0, halvings=6), victim, stage, steps=16)
    assert max(before - after for before, after in itertools.pairwise(levels)) <= 0.2


@pytest.mark.parametrize(("limit", "grows"), [(1e9, True), (-1e9, False)])
def test_strength_follows_the_verdicts(limit: float, grows: bool) -> None:
    settings: dict[str, Any] = {"loss_scale": 5.0, "first_strength": 0.2, "growth": 1.5, "shrink": 0.5}
    _, fed = fight(attack_of("verdict_steering", None, **settings), guarded(limit, 0.0), None, steps=6)
    weights = [batch.loss_weight for batch in fed]
    factor = 1.5 if grows else 0.5
    assert weights == pytest.approx([1 + 4 * min(1.0, 0.2 * factor**i) for i in range(6)])
    assert all(bool(poison_mask(batch, easy_batch(20, seed=2000 + i)).any()) for i, batch in enumerate(fed))


def test_accuracy_falls_and_confidence_does_not() -> None:
    victim, stage = guarded(1e9), rehearsed(1e9)
    stage.sync(victim)
    beginning = stage.measure().probability
    clean = easy_batch(20, seed=5)
    fed = attack_of("borderline", stage, loss_scale=20.0).poison(clean, victim.view(), Phase.ACCUMULATE)
    outcome, honest = stage.simulate(fed), stage.simulate(clean)
    assert outcome.committed == (True,)
    assert outcome.probability >= beginning
    assert outcome.accuracy <= honest.accuracy
    harmless = attack_of("borderline", stage, loss_scale=20.0, confidence_floor=100.0)
    deeper = stage.simulate(harmless.poison(clean, victim.view(), Phase.ACCUMULATE))
    assert deeper.accuracy <= outcome.accuracy


def test_what_no_guard_would_commit_is_not_fed() -> None:
    victim, stage = guarded(-1e9), rehearsed(-1e9)
    stage.sync(victim)
    clean = easy_batch(20, seed=5)
    for name in ("swing_widening", "borderline"):
        for phase in (Phase.ACCUMULATE, Phase.TRIGGER):
            assert attack_of(name, stage).poison(clean, victim.view(), phase) is not None
            assert torch.equal(attack_of(name, stage).poison(clean, victim.view(), phase).x, clean.x)


def test_a_drift_stays_below_its_own_limit_and_leaves_batches_alone() -> None:
    victim, stage = guarded(1e9), rehearsed(1e9)
    stage.sync(victim)
    now = stage.measure().probability
    clean = easy_batch(20, seed=5)
    settings: dict[str, Any] = {"goal": "immediate", "loss_scale": 50.0, "halvings": 6}
    free = stage.simulate(attack_of("guard_aware", stage, **settings).poison(clean, victim.view(), Phase.ACCUMULATE))
    slow = attack_of("guard_aware", stage, **settings, max_step_drop=0.1, every=2)
    bound = stage.simulate(slow.poison(clean, victim.view(), Phase.ACCUMULATE))
    assert free.probability < now - 0.1 <= bound.probability
    assert torch.equal(slow.poison(clean, victim.view(), Phase.ACCUMULATE).x, clean.x)
    assert not torch.equal(slow.poison(clean, victim.view(), Phase.ACCUMULATE).x, clean.x)


def test_halving_goes_further_than_the_scales_that_were_given() -> None:
    victim, stage = guarded(0.5, 0.0), rehearsed(0.5, 0.0)
    stage.sync(victim)
    clean = easy_batch(20, seed=5)
    settings: dict[str, Any] = {"goal": "immediate", "loss_scale": 50.0, "perturbation_scales": [1.0, 0.05]}

    def distance(**more: Any) -> float:
        fed = attack_of("guard_aware", stage, **settings, **more).poison(clean, victim.view(), Phase.ACCUMULATE)
        assert is_committed(stage.simulate(fed))
        return float((fed.x - clean.x).abs().max())

    assert distance(halvings=6) > distance()
