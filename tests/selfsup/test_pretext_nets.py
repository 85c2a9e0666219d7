"""Losses by hand, what gradients go through, and nets that follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from taster.errors import ModelError
from taster.models.small_cnn import small_cnn
from taster.selfsup import (
    MoCo,
    PretextNet,
    Pretraining,
    PretrainingSettings,
    SimCLR,
    SimSiam,
    ViewSettings,
    info_nce,
    negative_cosine,
    nt_xent,
    pretrain,
)
from taster.selfsup.pretext_nets import Encoder

HEADS = {"hidden": 8, "out": 4}


def rows(n: int = 5, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name: str, net: nn.Module, width: int) -> PretextNet:
    if name == "moco":
        return MoCo(net, width, **HEADS, temperature=0.2, momentum=0.9, queue=12)
    return SimCLR(net, width, **HEADS, temperature=0.5) if name == "simclr" else SimSiam(net, width, **HEADS)


def pretext(name: str, seed: int = 0) -> PretextNet:
    torch.manual_seed(seed)
    return make(name, small_cnn((1, 8, 8), 10, width=4), 8).double()


def test_nt_xent_by_its_definition() -> None:
    first, second, tau = rows(seed=1), rows(seed=2), 0.3
    both = torch.cat([first, second])
    unit = both / both.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(10):
        near = [float(unit[i] @ unit[k]) / tau for k in range(10)]
        others = torch.tensor([near[k] for k in range(10) if k != i])
        total += float(torch.logsumexp(others, 0)) - near[(i + 5) % 10]
    assert float(nt_xent(first, second, tau)) == pytest.approx(total / 10)


def test_info_nce_by_its_definition() -> None:
    queries, keys, others = rows(seed=1), rows(seed=2), normalize(rows(7, seed=3), dim=1)
    total = 0.0
    for q, k in zip(normalize(queries, dim=1), normalize(keys, dim=1), strict=True):
        own = float(q @ k) / 0.2
        total += float(torch.logsumexp(torch.cat([torch.tensor([own]).double(), others @ q / 0.2]), 0)) - own
    assert float(info_nce(queries, keys, others, 0.2)) == pytest.approx(total / 5)


def test_negative_cosine_of_what_is_alike_and_of_what_is_not() -> None:
    assert float(negative_cosine(rows(), 3 * rows())) == pytest.approx(-1)
    assert float(negative_cosine(rows(), -rows())) == pytest.approx(1)


def test_features_are_what_goes_into_the_last_linear_layer() -> None:
    net = small_cnn((1, 8, 8), 10, width=4).eval()
    x = torch.rand(3, 1, 8, 8)
    found = Encoder(net)(x)
    torch.testing.assert_close(net.get_submodule("fc")(found), net(x))
    assert not net.get_submodule("fc")._forward_pre_hooks


def test_nets_without_features_are_refused() -> None:
    with pytest.raises(ModelError, match="without a linear layer"):
        Encoder(nn.Conv2d(1, 2, 3))
    with pytest.raises(ModelError, match="gives no features, one row a sample"):
        Encoder(nn.Linear(4, 4))(torch.rand(3, 1, 4))


@pytest.mark.parametrize("name", ["simclr", "moco", "simsiam"])
def test_the_gradient_through_both_views_is_that_of_the_loss(name: str) -> None:
    net = pretext(name).eval()
    first, second = (torch.rand(3, 1, 8, 8, dtype=torch.float64) for _ in range(2))

    def loss(one: Tensor, two: Tensor) -> Tensor:
        return net.loss(one, two, through_both=True)

    assert torch.autograd.gradcheck(loss, (first.requires_grad_(), second.requires_grad_()))


@pytest.mark.parametrize(("name", "stopped"), [("simclr", False), ("moco", True)])
def test_training_stops_the_gradient_of_the_keys(name: str, stopped: bool) -> None:
    net = pretext(name)
    second = torch.rand(3, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    loss = net.loss(torch.rand(3, 1, 8, 8, dtype=torch.float64), second)
    (gradient,) = torch.autograd.grad(loss, second, allow_unused=True)
    assert (gradient is None) == stopped


def test_simsiam_learns_by_its_predictions_alone() -> None:
    net = pretext("simsiam").eval()
    first, second = (torch.rand(3, 1, 8, 8, dtype=torch.float64) for _ in range(2))
    weights = list(net.encoder.parameters())[:1]
    (stopped,) = torch.autograd.grad(net.loss(first, second), weights)
    (whole,) = torch.autograd.grad(net.loss(first, second, through_both=True), weights)
    assert not torch.allclose(stopped, whole)


def test_keys_follow_slowly_and_are_queued() -> None:
    net = pretext("moco")
    assert isinstance(net, MoCo)
    before = [p.clone() for p in net.key_encoder.parameters()]
    queue = net.queue.clone()
    net.loss(torch.rand(3, 1, 8, 8).double(), torch.rand(3, 1, 8, 8).double())
    with torch.no_grad():
        for parameter in net.encoder.parameters():
            parameter += 1
    net.follow()
    for old, new in zip(before, net.key_encoder.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert net.queue.shape == queue.shape
    torch.testing.assert_close(net.queue[3:], queue[:-3])
    torch.testing.assert_close(net.queue.norm(dim=1), torch.ones(12, dtype=torch.float64))


def pretrained(name: str, seed: int = 0, **settings: Any) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    net = small_cnn((3, 8, 8), 10, width=4)
    colours = torch.rand(40, 3, 1, 1, generator=torch.Generator().manual_seed(5)).expand(-1, -1, 8, 8)
    losses = pretrain(
        lambda net, width: make(name, net, width),
        net,
        colours,
        PretrainingSettings(**{"pretraining_epochs": 12, "pretraining_batch": 20, **settings}),
        ViewSettings(jitter_share=0, grey_share=0),
        torch.Generator().manual_seed(seed),
    )
    return net, losses


@pytest.mark.parametrize("name", ["simclr", "moco", "simsiam"])
def test_the_loss_falls_and_the_seed_gives_the_same_bits(name: str) -> None:
    net, losses = pretrained(name)
    again, _ = pretrained(name)
    other, _ = pretrained(name, 1)
    # MoCo's keys at first are random ones, which are easier to tell apart than those of images.
    assert losses[-1] < max(losses) - 0.1
    assert not net.training
    for left, right in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
    assert any(not torch.equal(left, right) for left, right in zip(net.parameters(), other.parameters(), strict=True))
    torch.manual_seed(0)
    fresh = small_cnn((3, 8, 8), 10, width=4)
    assert torch.equal(fresh.get_submodule("fc").weight, net.get_submodule("fc").weight)  # the layer has no part in it


def test_no_epochs_leave_the_net_as_it_was() -> None:
    net, losses = pretrained("simclr", pretraining_epochs=0)
    torch.manual_seed(0)
    fresh = small_cnn((3, 8, 8), 10, width=4)
    assert losses == []
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))


def test_the_learning_rate_falls_to_almost_nothing_and_a_loss_that_is_not_finite_is_told() -> None:
    torch.manual_seed(0)
    net = small_cnn((1, 8, 8), 10, width=4)
    x = torch.rand(4, 1, 8, 8)
    training = Pretraining(
        lambda net, width: make("simclr", net, width),
        net,
        x[:1],
        PretrainingSettings(pretraining_decay=0.0, pretraining_momentum=0.0),
        ViewSettings(),
        1000,
        torch.Generator().manual_seed(0),
    )
    training._done = 1000
    before = [p.clone() for p in net.parameters()]
    training.step(x)
    for old, new in zip(before, net.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-5, rtol=0)
    with torch.no_grad():
        next(net.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="a loss of nan in step 1002; try a smaller pretraining_rate"):
        training.step(x)
