"""Influence against the inner products that it stands for."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.defences import influence_screen
from taster.errors import GuardError
from taster.scores.influence import FirstOrderInfluence


def trained() -> Learner:
    learner = tiny_learner()
    for i in range(5):
        learner.step(tiny_batch(16, seed=i))
    return learner


def gradient(learner: Learner, batch: Batch) -> torch.Tensor:
    learner.model.eval()
    loss = cross_entropy(learner.model(batch.x), batch.y)
    slopes = torch.autograd.grad(loss, list(learner.model.parameters()))
    learner.model.train()
    return torch.cat([slope.flatten() for slope in slopes])


def test_it_is_the_inner_product_with_the_probes_gradient() -> None:
    learner, probe, batch = trained(), tiny_batch(30, seed=8), tiny_batch(10, seed=9)
    direction = gradient(learner, probe)
    by_hand = [
        -float(gradient(learner, Batch(batch.x[i : i + 1], batch.y[i : i + 1])) @ direction / direction.norm())
        for i in range(10)
    ]
    found = FirstOrderInfluence(probe)(batch, learner.view())
    assert found.tolist() == pytest.approx(by_hand, abs=1e-5)
    assert not found.requires_grad


def test_a_step_on_a_sample_of_great_influence_harms_the_probe() -> None:
    learner, probe, batch = trained(), tiny_batch(60, seed=8), tiny_batch(40, seed=9)
    scores = FirstOrderInfluence(probe)(batch, learner.view())

    def after(i: int) -> float:
        model = trained()
        model.model.eval()
        for group in model.optimizer.param_groups:
            group.update(lr=1e-3, momentum=0.0, weight_decay=0.0)
        model.step(batch.select(torch.tensor([i])))
        return float(model.view().loss(probe.x, probe.y))

    before = float(learner.view().loss(probe.x, probe.y))
    assert after(int(scores.argmax())) > before > after(int(scores.argmin()))


def test_the_direction_is_refitted_every_few_steps_and_kept() -> None:
    learner, score = trained(), FirstOrderInfluence(tiny_batch(30, seed=8), refit_every=3)
    batch = tiny_batch(10, seed=9)
    fresh = score(batch, learner.view())
    assert score.state_dict()["fitted"] is None  # being asked changes nothing
    record = learner.step(tiny_batch(16, seed=20))
    score.observe(record, learner.view())
    first = score.state_dict()["fitted"]
    assert first is not None
    again = FirstOrderInfluence(tiny_batch(30, seed=8), refit_every=3)
    again.load_state_dict(score.state_dict())
    assert torch.equal(again(batch, learner.view()), score(batch, learner.view()))
    score.set_trusted_data(tiny_batch(30, seed=50))
    assert not torch.equal(score(batch, learner.view()), fresh)
    with pytest.raises(GuardError, match="refit_every 0"):
        FirstOrderInfluence(batch, refit_every=0)


def test_wrong_labels_are_dropped_more_than_right_ones() -> None:
    def labelled(n: int, seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 3, (n,), generator=g)
        return Batch((y.float() / 2)[:, None, None, None].expand(n, 1, 6, 6) * 0.8 + 0.2 * torch.rand(n, 1, 6, 6), y)

    learner = tiny_learner(guard=influence_screen(labelled(100, 1)))
    clean = learner.step(labelled(60, 2)).dropped
    for i in range(10):
        learner.step(labelled(32, 10 + i))
    flipped = labelled(60, 3)
    wrong = learner.step(Batch(flipped.x, (flipped.y + 1) % 3))
    assert clean < 15
    assert wrong.dropped > 30
