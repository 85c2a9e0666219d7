"""The net of the comparisons with ART: small, for images of 8 by 8, trained in a second."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.core.view import View

FEATURES = "5"
"""The layer of `make_net` whose output goes into the last one."""


def make_net(seed: int) -> nn.Sequential:
    """For images of 8 by 8."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train_net(samples: Batch, seed: int) -> nn.Sequential:
    """Trains one, and leaves it in evaluation mode."""
    net = make_net(seed)
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    order = torch.Generator().manual_seed(seed)
    for _ in range(8):
        for part in torch.randperm(len(samples), generator=order).split(64):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            cross_entropy(net(samples.x[part]), samples.y[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def view_of(net: nn.Module) -> View:
    """As attacks and scores of taster see it."""
    return Learner(net, torch.optim.SGD(net.parameters(), lr=0.01), cross_entropy).view()
