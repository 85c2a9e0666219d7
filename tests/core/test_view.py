"""A view shows everything and changes nothing."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import TinyNet, full_state, same_state, tiny_batch, tiny_learner
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Learner, Phase, SnapshotBuffer
from taster.attacks import CraftingSettings, accumulative
from taster.errors import SnapshotError, StaleViewError


def test_nothing_done_through_a_view_changes_the_learner() -> None:
    learner = tiny_learner()
    learner.step(tiny_batch())
    before = full_state(learner)
    view, batch = learner.view(), tiny_batch()
    for tensors in (view.params, view.buffers):
        for tensor in tensors.values():
            tensor.zero_()
    for mode in ("eval", "train"):
        view = learner.view()
        view.forward(batch.x, batch_norm=mode)
        params = {k: v.requires_grad_() for k, v in view.params.items()}
        view.loss(batch.x, batch.y, params=params, batch_norm=mode).backward()
    view.accuracy(batch.x, batch.y)
    assert same_state(before, full_state(learner))
    assert learner.model.training


def test_forward_is_the_model_in_either_mode() -> None:
    learner, batch = tiny_learner(), tiny_batch()
    learner.step(batch)
    twin = TinyNet()
    twin.load_state_dict(learner.model.state_dict())
    view = learner.view()
    assert torch.equal(view.forward(batch.x, batch_norm="train"), twin(batch.x))
    twin.load_state_dict(learner.model.state_dict())
    twin.eval()
    assert torch.equal(view.forward(batch.x), twin(batch.x))
    assert torch.allclose(view.sample_losses(batch.x, batch.y).mean(), view.loss(batch.x, batch.y))


def test_dropout_is_off_and_draws_nothing() -> None:
    torch.manual_seed(0)
    model = TinyNet(dropout=0.5)
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    x, state = tiny_batch().x, torch.get_rng_state()
    view = learner.view()
    assert torch.equal(view.forward(x, batch_norm="train"), view.forward(x, batch_norm="train"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_view_goes_stale_when_the_learner_moves_on() -> None:
    learner, batch = tiny_learner(), tiny_batch()
    view, kept = learner.view(), learner.view()
    copies, buffers = kept.params, kept.buffers
    learner.step(batch)
    with pytest.raises(StaleViewError, match="step 0"):
        view.forward(batch.x)
    kept.forward(batch.x)  # its copies were made in time
    assert copies is kept.params
    assert buffers is kept.buffers


def test_the_past_can_be_looked_at() -> None:
    learner = tiny_learner(snapshots=SnapshotBuffer(capacity=3))
    weights = []
    for i in range(4):
        weights.append(learner.model.fc.weight.detach().clone())
        learner.step(tiny_batch(seed=i))
    learner.snapshots.pin("release", learner.snapshot())
    view = learner.view()
    assert view.snapshot_steps == (1, 2, 3)
    assert view.labels == ("release",)
    assert torch.equal(view.at(2).params["fc.weight"], weights[2])
    assert torch.equal(view.at("release").forward(tiny_batch().x), view.forward(tiny_batch().x))
    with pytest.raises(SnapshotError, match=r"steps \[1, 2, 3\] and labels \['release'\]"):
        view.at(0)
    with pytest.raises(SnapshotError, match="no snapshot"):
        tiny_learner().view().at(0)


def test_frozen_parameters_are_not_trainable() -> None:
    model = TinyNet()
    model.conv.requires_grad_(False)
    learner = Learner(model, torch.optim.SGD(model.fc.parameters(), lr=0.1), cross_entropy)
    assert set(learner.view().trainable) == {"bn.weight", "bn.bias", "fc.weight", "fc.bias"}
    assert learner.step(tiny_batch()).verdict.committed


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(x.squeeze(1))).mean(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(36, 36)
        self.b = nn.Linear(36, 36)
        self.b.weight = self.a.weight
        self.head = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))


@pytest.mark.parametrize("build", [Attention, Tied, lambda: TinyNet(dropout=0.3)])
def test_all_kinds_of_models_work(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    learner = Learner(model, torch.optim.Adam(model.parameters(), lr=0.01), cross_entropy, snapshots=SnapshotBuffer())
    batch = tiny_batch()
    losses = [learner.step(batch).loss for _ in range(20)]
    assert losses[-1] < losses[0]
    x = batch.x.clone().requires_grad_()
    learner.view().loss(x, batch.y).backward()
    assert x.grad.abs().sum() > 0
    campaign = accumulative(
        batch,
        lambda n: tiny_batch(n, seed=3),
        torch.Generator(),
        crafting=CraftingSettings(epsilon=0.1, pgd_steps=2),
        trigger_batch="optimized",
    )
    fed = campaign.poison(batch, learner.view(), Phase.ACCUMULATE)
    assert bool((fed.x != batch.x).any())


def test_a_model_that_cannot_be_copied_computes_itself_and_keeps_no_trace() -> None:
    model = TinyNet().train()
    model.odd = (i for i in range(3))
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    plain = TinyNet()
    plain.load_state_dict(model.state_dict())
    like = Learner(plain, torch.optim.SGD(plain.parameters(), lr=0.1), cross_entropy)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for mode in ("eval", "train"):
        own = learner.view().forward(tiny_batch().x, batch_norm=mode)  # type: ignore[arg-type]
        torch.testing.assert_close(own, like.view().forward(tiny_batch().x, batch_norm=mode), rtol=0, atol=0)  # type: ignore[arg-type]
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    other = {name: torch.randn_like(value) for name, value in learner.view().params.items()}
    torch.testing.assert_close(
        learner.view().forward(tiny_batch().x, params=other), like.view().forward(tiny_batch().x, params=other)
    )


def test_outputs_and_accuracy_of_many_samples_are_those_of_all_at_once() -> None:
    learner = tiny_learner()
    view, batch = learner.view(), tiny_batch(n=11)
    torch.testing.assert_close(view.outputs(batch.x, chunk=4), view.forward(batch.x))
    assert not view.outputs(batch.x).requires_grad
    others = {name: torch.randn_like(value) for name, value in view.params.items()}
    right = (view.forward(batch.x, params=others).argmax(1) == batch.y).float().mean()
    assert view.accuracy(batch.x, batch.y, params=others, chunk=3) == pytest.approx(100 * float(right))
