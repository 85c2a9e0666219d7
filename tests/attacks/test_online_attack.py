"""The public call of an attack is final: whatever the attack returned, the budget holds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.conftest import tiny_batch, tiny_learner

from taster import Batch, Phase, View
from taster.attacks import Budget, OnlineAttack
from taster.attacks.online_attack import poison_mask, sample_class
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall


@settings(max_examples=100, deadline=None)
@given(
    arrays("float32", (5, 1, 6, 6), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.floats(0, 1),
    st.sampled_from(["linf", "l2"]),
)
def test_the_budget_holds_for_any_attack(x, ratio: float, norm: str) -> None:
    clean = tiny_batch(5)
    before = clean.x.clone()
    budget = Budget(LpBall(norm, 0.1), ratio)
    campaign = OnlineAttack(budget, trigger=lambda c, v: Batch(torch.from_numpy(x), c.y + 1))
    fed = campaign.poison(clean, tiny_learner().view(), Phase.TRIGGER)
    size = (fed.x - clean.x).flatten(1).abs().amax(1) if norm == "linf" else (fed.x - clean.x).flatten(1).norm(dim=1)
    assert bool((size <= 0.1 + 1e-5).all())
    assert int(poison_mask(fed, clean).sum()) <= int(ratio * 5 + 1e-9)
    assert torch.equal(fed.y, clean.y)
    assert bool(fed.x.isfinite().all())
    assert torch.equal(clean.x, before)


@settings(max_examples=50, deadline=None)
@given(arrays("int64", (5,), elements=st.integers(-5, 5)), st.floats(0, 1))
def test_labels_are_bound_by_the_ratio_where_they_may_change(y, ratio: float) -> None:
    clean = tiny_batch(5)
    campaign = OnlineAttack(
        Budget(LpBall("linf", 0.0), ratio, labels=True), trigger=lambda c, v: Batch(c.x, torch.from_numpy(y))
    )
    fed = campaign.poison(clean, tiny_learner().view(), Phase.TRIGGER)
    kept = (fed.y != clean.y).sum()
    assert int(kept) == min(int((torch.from_numpy(y) != clean.y).sum()), int(ratio * 5 + 1e-9))
    assert torch.equal(fed.x, clean.x)


def test_labels_of_another_shape_are_refused() -> None:
    campaign = OnlineAttack(Budget(labels=True), trigger=lambda c, v: Batch(c.x, c.y.float()))
    with pytest.raises(AttackError, match=r"returned labels \[8\] of torch.float32"):
        campaign.poison(tiny_batch(), tiny_learner().view(), Phase.TRIGGER)


def test_a_draw_of_one_class_holds_that_class_alone() -> None:
    draw = sample_class(lambda n: tiny_batch(n, seed=4), 1)
    assert set(draw(30).y.tolist()) == {1}
    assert sample_class(tiny_batch, None) is tiny_batch
    with pytest.raises(AttackError, match="victim_class: got 7, wanted a class that the attacker has samples of"):
        sample_class(lambda n: tiny_batch(n, seed=4), 7)(30)


def test_what_is_no_batch_is_told_and_loss_scaling_is_bound() -> None:
    view = tiny_learner().view()
    with pytest.raises(AttackError, match="returned Tensor, wanted a Batch"):
        OnlineAttack(trigger=lambda c, v: c.x).poison(tiny_batch(), view, Phase.TRIGGER)
    loud = OnlineAttack(Budget(max_loss_weight=5.0), trigger=lambda c, v: Batch(c.x, c.y, 100.0))
    assert loud.poison(tiny_batch(), view, Phase.TRIGGER).loss_weight == 5.0


def test_phases_without_a_part_stay_clean() -> None:
    clean = tiny_batch()
    for phase in Phase:
        assert OnlineAttack().poison(clean, tiny_learner().view(), phase) is clean


@pytest.mark.parametrize("wrong", [torch.zeros(3, 1, 6, 6), torch.zeros(8, 1, 6, 6, dtype=torch.float64)])
def test_an_attack_that_changes_the_shape_is_refused(wrong: torch.Tensor) -> None:
    campaign = OnlineAttack(accumulate=lambda c, v: Batch(wrong, torch.zeros(len(wrong), dtype=torch.int64)))
    with pytest.raises(AttackError, match=r"wanted \[8, 1, 6, 6\]"):
        campaign.poison(tiny_batch(), tiny_learner().view(), Phase.ACCUMULATE)


@pytest.mark.parametrize(
    ("ratio", "n", "count"), [(0.1, 50, 5), (0.3, 10, 3), (1.0, 7, 7), (0.0, 9, 0), (0.29, 100, 29)]
)
def test_the_ratio_counts_samples(ratio: float, n: int, count: int) -> None:
    budget = Budget(poison_fraction=ratio)
    assert budget.max_poisoned(n) == count
    assert int(budget.draw_mask(n, torch.Generator().manual_seed(0)).sum()) == count


def test_a_ratio_over_one_is_refused() -> None:
    with pytest.raises(AttackError, match="from 0 to 1"):
        Budget(poison_fraction=1.1)


def test_the_trigger_may_have_a_budget_of_its_own() -> None:
    clean, view = tiny_batch(), tiny_learner().view()

    def shout(batch: Batch, view: View) -> Batch:
        return Batch(batch.x + 9, (batch.y + 1) % 3)

    wide = Budget(LpBall("linf", 0.4), labels=True)
    campaign = OnlineAttack(Budget(LpBall("linf", 0.1)), shout, shout, trigger_budget=wide)
    stream, trigger = (campaign.poison(clean, view, phase) for phase in (Phase.ACCUMULATE, Phase.TRIGGER))
    assert torch.equal(stream.y, clean.y)
    assert float((stream.x - clean.x).max()) == pytest.approx(0.1, abs=1e-6)
    assert bool((trigger.y != clean.y).all())
    assert float((trigger.x - clean.x).max()) == pytest.approx(0.4, abs=1e-6)
