"""Federated rounds through the same step as online learning."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Action, Guard, Updates
from taster.calculus.exact import gradient
from taster.federated import aggregated, coordinate_median, flatten, mean, unflatten
from taster.step import guarded_step


def client_update(learner, seed: int) -> torch.Tensor:
    view, batch = learner.view(), tiny_batch(seed=seed)
    return flatten(gradient(lambda p, x, y: view.loss(x, y, params=p), view.trainable, batch))


def test_one_client_under_mean_aggregation_is_one_online_step() -> None:
    online, federated = tiny_learner(), tiny_learner()
    for learner in (online, federated):
        learner.model.eval()  # clients compute gradients at the server's batch-norm statistics
    for i in range(10):
        online.feed(tiny_batch(seed=i))
        updates = Updates(client_update(federated, i)[None], torch.tensor([3.0]))
        assert guarded_step(federated, updates, Guard(), aggregated(mean)).verdict.committed
        assert same_state(full_state(online), full_state(federated))
    assert federated.steps == 10


@pytest.mark.parametrize("aggregate", [mean, coordinate_median])
def test_aggregators_agree_with_brute_force_and_do_not_mind_the_order(aggregate) -> None:
    g = torch.Generator().manual_seed(0)
    for m in (1, 4, 7):
        values = torch.randn(m, 11, generator=g, dtype=torch.float64)
        weights = torch.rand(m, generator=g, dtype=torch.float64) + 0.1
        if aggregate is mean:
            expected = sum(weights[i] * values[i] for i in range(m)) / sum(weights[i] for i in range(m))
        else:
            columns = [sorted(values[:, j].tolist()) for j in range(11)]
            expected = torch.tensor([(c[(m - 1) // 2] + c[m // 2]) / 2 for c in columns], dtype=torch.float64)
        torch.testing.assert_close(aggregate(values, weights), expected)
        order = torch.randperm(m, generator=g)
        torch.testing.assert_close(aggregate(values[order], weights[order]), aggregate(values, weights))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("aggregate", [mean, coordinate_median])
def test_a_client_that_is_not_finite_changes_nothing(poison: float, aggregate) -> None:
    honest, attacked = tiny_learner(), tiny_learner()
    good = torch.stack([client_update(honest, i) for i in range(4)])
    bad = good[:1].clone()
    bad[0, 5] = poison
    guarded_step(honest, Updates(good, torch.ones(4)), Guard(), aggregated(aggregate))
    record = guarded_step(attacked, Updates(torch.cat([bad, good]), torch.ones(5)), Guard(), aggregated(aggregate))
    assert record.dropped == 1
    assert same_state(full_state(honest), full_state(attacked))


def test_a_round_of_nothing_but_broken_clients_is_skipped() -> None:
    learner = tiny_learner()
    before = full_state(learner)
    values = torch.full((3, flatten(learner.view().trainable).numel()), math.nan)
    record = guarded_step(learner, Updates(values, torch.ones(3)), Guard(), aggregated(mean))
    assert record.verdict.action is Action.REJECT
    assert same_state(before, full_state(learner))


def test_flattening_is_undone() -> None:
    learner = tiny_learner()
    params = learner.view().trainable
    back = unflatten(flatten(params), learner)
    assert all(torch.equal(back[k], params[k]) for k in params)
