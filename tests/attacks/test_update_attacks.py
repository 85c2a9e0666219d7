"""Attacks on updates: within the bound whatever they return, and the field's standards by their definitions."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attacks.conftest import SIZE, eval_learner, make_attack, round_knowledge, sent

from taster import Phase
from taster.attacks import UPDATE_ATTACKS, RoundKnowledge, UpdateAttack, UpdateBudget
from taster.attacks.updates.alie import max_deviations
from taster.core.param_vectors import flatten
from taster.errors import AttackError


@pytest.mark.parametrize("name", UPDATE_ATTACKS)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_every_attack_sends_finite_rows_and_leaves_its_input_alone(name: str, k: int) -> None:
    victim, c = eval_learner(), round_knowledge(k=k)
    before = c.values.clone()
    campaign = make_attack(name, **({"validation_size": 10} if name == "accumulative_updates" else {}))
    for phase in (Phase.DORMANT, Phase.ACCUMULATE, Phase.TRIGGER):
        rows = campaign.poison(c, victim.view(), phase)
        if phase is Phase.DORMANT:
            assert rows is None
        elif rows is not None:
            assert rows.shape == (k, SIZE)
            assert bool(rows.isfinite().all())
    assert torch.equal(c.values, before)


@given(
    seed=st.integers(0, 1000),
    size=st.floats(1e-6, 1e30),
    eta=st.floats(1e-3, 1e3),
    norm=st.sampled_from(["l2", "linf"]),
    broken=st.sampled_from([None, math.nan, math.inf, -math.inf]),
)
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_whatever_an_attack_returns(seed: int, size: float, eta: float, norm: str, broken) -> None:
    g = torch.Generator().manual_seed(seed)
    sent = size * torch.randn(3, 20, generator=g)
    if broken is not None:
        sent[0, 3] = broken
    campaign = UpdateAttack.always(lambda c, view: sent, UpdateBudget(eta, norm))  # type: ignore[arg-type]
    rows = campaign.poison(round_knowledge(k=3, d=20), eval_learner().view(), Phase.TRIGGER)
    assert rows is not None
    sizes = torch.linalg.vector_norm(rows.double(), 2 if norm == "l2" else torch.inf, dim=1)
    assert float(sizes.max()) <= eta * (1 + 1e-4)
    inside = torch.linalg.vector_norm(sent.double(), 2 if norm == "l2" else torch.inf, dim=1) <= eta
    assert torch.equal(rows[inside], sent[inside])


@pytest.mark.parametrize("wrong", [torch.zeros(3, 7), torch.zeros(2, 20), torch.zeros(3, 20).long(), "rows", None])
def test_rows_of_another_shape_are_an_error(wrong) -> None:
    c = round_knowledge(k=3, d=20)
    with pytest.raises(AttackError, match=r"wanted updates \[3, 20\]"):
        UpdateAttack.always(lambda c, view: wrong).poison(c, eval_learner().view(), Phase.TRIGGER)


def test_the_fields_standards_are_their_definitions() -> None:
    c = round_knowledge(m=10, k=3, d=20)
    others, own = c.values[~c.malicious], c.values[c.malicious]
    torch.testing.assert_close(sent("sign_flip", c, scale=4.0), -4 * own)
    torch.testing.assert_close(sent("ipm", c, scale=0.5), (-0.5 * others.mean(0)).expand(3, -1))
    z = NormalDist().inv_cdf(4 / 7)  # s = 6 − 3 = 3 supporters of 7 honest
    assert max_deviations(10, 3) == pytest.approx(z)
    torch.testing.assert_close(sent("alie", c), (others.mean(0) - z * others.std(0)).expand(3, -1))
    assert max_deviations(10, 6) == 0.0
    noise = sent("gaussian_updates", c, scale=2.0)
    torch.testing.assert_close(noise.norm(dim=1), (2 * others.norm(dim=1).mean()).expand(3))
    assert not torch.equal(noise[0], noise[1])
    copied = sent("mimic", c)
    assert any(torch.equal(copied[0], row) for row in others)
    assert torch.equal(copied[0], copied[2])


@pytest.mark.parametrize("away", ["unit", "deviation", "sign"])
def test_min_max_and_min_sum_go_as_far_as_their_bound_and_no_further(away: str) -> None:
    c = round_knowledge(m=10, k=3, d=20)
    others = c.values[~c.malicious].double()
    apart = torch.cdist(others, others).square()
    for name, bound, reach in (
        ("min_max", float(apart.max()), lambda row: float((others - row).square().sum(1).max())),
        ("min_sum", float(apart.sum(1).max()), lambda row: float((others - row).square().sum())),
    ):
        row = sent(name, c, perturbation=away)[0].double()
        assert reach(row) == pytest.approx(bound, rel=1e-4)
        assert reach(others.mean(0) + 1.01 * (row - others.mean(0))) > bound


def test_mimic_follows_the_direction_in_which_clients_differ() -> None:
    g = torch.Generator().manual_seed(3)
    axis = torch.zeros(20)
    axis[4] = 1.0
    attack, chosen = make_attack("mimic"), []
    for _ in range(30):
        values = 0.1 * torch.randn(10, 20, generator=g) + torch.linspace(-1, 1, 10)[:, None] * axis
        rows = attack.poison(
            RoundKnowledge(values, torch.ones(10), torch.arange(10) < 3), eval_learner().view(), Phase.ACCUMULATE
        )
        chosen.append(int((values - rows[0]).abs().sum(1).argmin()))
    assert set(chosen[-10:]) <= {8, 9} or set(chosen[-10:]) <= {3, 4}  # one end of the axis, the same throughout


def test_the_tiny_net_has_as_many_parameters_as_these_tests_count_on() -> None:
    assert flatten(eval_learner().view().trainable).numel() == SIZE
