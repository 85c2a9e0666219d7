"""Two networks and two optimizers in one step (a GAN), judged by a function of one's own.

python examples/two_optimizers.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import taster

torch.manual_seed(0)
noise = torch.randn(400, 4)
generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
optimizers = [torch.optim.Adam(net.parameters(), lr=3e-3, betas=(0.5, 0.9)) for net in (generator, critic)]


def circle(n: int) -> Tensor:
    """Points on a circle, [n, 2]."""
    angle = 6.28 * torch.rand(n, 1)
    return torch.cat([angle.cos(), angle.sin()], 1)


def closeness(nets: nn.ModuleList) -> Tensor:
    """How near to the circle each generated point lies, at best 0: one number a sample, higher is better."""
    return -(nets[0](noise).norm(dim=1) - 1).abs().clamp(max=2)


def train(real: Tensor) -> None:
    """A step of the critic and one of the generator."""
    fake = generator(torch.randn(64, 4))
    optimizers[1].zero_grad()
    (softplus(-critic(real)).mean() + softplus(critic(fake.detach())).mean()).backward()
    optimizers[1].step()
    optimizers[0].zero_grad()
    softplus(-critic(fake)).mean().backward()
    optimizers[0].step()


for _ in range(1500):  # before anybody else may send points
    train(circle(64))
for optimizer in optimizers:
    optimizer.param_groups[0]["lr"] = 2e-3

guard = taster.guard(evaluate=closeness, tolerance=0.05)
guarded = taster.Guarded([generator, critic], optimizers, guard)
for step in range(120):
    real = circle(64)
    if 40 <= step < 90:  # points from somewhere else
        real = 6 + real
    with guarded.step() as attempt:
        train(real)
    if attempt.refused:
        print(f"step {step}: {attempt.record.verdict.reason}")

print(f"mean distance from the circle {-closeness(guarded.model).mean():.3f}, {dict(guarded.counters)}")
