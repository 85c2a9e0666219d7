"""Trusted data replaced."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.conftest import tiny_learner
from tests.defences.conftest import easy, noisy, poison, trained
from tests.probe.test_check import distinct

import taster
from taster import Batch, Guard
from taster.errors import GuardError
from taster.probe.renewal import trusted_samples


def test_new_samples_that_the_model_does_well_on_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    guard = taster.guard(distinct(200, 1))
    learner = trained(tiny_learner(guard=guard))
    new = distinct(150, 2)
    found = taster.probe.renew(guard, new, model=learner)
    assert torch.equal(trusted_samples(guard).x, new.x)
    assert (found.worse, found.kept, len(found.probe)) == (False, 0, 150)
    assert guard.renewals == 1
    assert learner.step(easy(32)).verdict.committed
    assert "150 trusted samples from now on, 0 of them old" in str(found)


def test_a_share_of_the_old_ones_gives_way_the_oldest_of_each_class_first() -> None:
    old = distinct(200, 1)
    guard = taster.guard(old)
    learner = trained(tiny_learner(guard=guard))
    found = taster.probe.renew(guard, distinct(50, 2), model=learner, share=0.25)
    assert (found.kept, len(found.probe)) == (150, 200)
    kept = found.probe.select(slice(150))
    for label in range(3):
        rows = (old.y == label).nonzero().flatten()
        left = kept.x[kept.y == label]
        assert abs(len(left) - 0.75 * len(rows)) < 1
        assert torch.equal(left, old.x[rows[len(rows) - len(left) :]])


def test_samples_that_the_model_does_worse_on_are_refused_and_nothing_changes() -> None:
    old = distinct(200, 1)
    guard = taster.guard(old)
    learner = trained(tiny_learner(guard=guard))
    with pytest.raises(GuardError, match=r"does worse on.*accept_worse=True") as refused:
        taster.probe.renew(guard, poison(distinct(200, 2)), model=learner)
    assert "labels look wrong" in str(refused.value)
    assert trusted_samples(guard) is old
    assert guard.renewals == 0


def test_the_owner_may_accept_it_and_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    guard = taster.guard(distinct(200, 1))
    learner = trained(tiny_learner(guard=guard))
    worse = poison(distinct(200, 2))
    with caplog.at_level(logging.WARNING, "taster.probe.renewal"):
        found = taster.probe.renew(guard, worse, model=learner, accept_worse=True)
    assert found.worse
    assert found.p < 1e-6
    assert trusted_samples(guard) is worse
    assert "although the model does worse" in caplog.text


def test_chance_alone_refuses_nothing() -> None:
    """Of new samples from the same world hardly any are refused."""
    learner = trained(tiny_learner(), draw=noisy)
    refused = 0
    for seed in range(40):
        guard = taster.guard(noisy(100, 500 + seed))
        try:
            taster.probe.renew(guard, noisy(100, 900 + seed), model=learner)
        except GuardError:
            refused += 1
    assert refused <= 3


def test_old_samples_among_the_new_are_counted() -> None:
    old = distinct(100, 1)
    learner = trained(tiny_learner())
    mixed = Batch(torch.cat([old.x[:10], distinct(90, 2).x]), torch.cat([old.y[:10], distinct(90, 2).y]))
    assert taster.probe.renew(taster.guard(old), mixed, model=learner).known == 10


def test_numbers_are_compared_by_welch() -> None:
    torch.manual_seed(0)
    x = torch.rand(200, 3)
    model = torch.nn.Linear(3, 1)
    y = model(x).detach()
    guard = taster.guard(Batch(x, y + 0.05 * torch.randn(200, 1)), task="regression")
    same = Batch(x.flip(0), y.flip(0) + 0.05 * torch.randn(200, 1))
    assert not taster.probe.renew(guard, same, model=model, task="regression", loss=torch.nn.MSELoss()).worse
    with pytest.raises(GuardError, match="does worse"):
        taster.probe.renew(guard, Batch(x, y.flip(0)), model=model, task="regression", loss=torch.nn.MSELoss())


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, True])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(GuardError, match="share"):
        taster.probe.renew(taster.guard(distinct(50, 1)), distinct(50, 2), model=tiny_learner(), share=share)


def test_a_guard_without_trusted_samples_has_none_to_renew() -> None:
    with pytest.raises(GuardError, match="no gate of which has trusted samples"):
        taster.probe.renew(Guard(), distinct(50, 2), model=tiny_learner())
