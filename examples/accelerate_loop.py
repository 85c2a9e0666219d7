"""A loop of one's own with Accelerate: two batches an update, a stretch of the stream with false labels."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import taster


def samples(n, seed):
    """Points around one of four centres."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    centres = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return centres[labels] + 0.5 * torch.randn(n, 2, generator=generator), labels


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
for _ in range(50):  # what the model knew before
    x, y = samples(64, seed=1)
    cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.5 * p.grad
    model.zero_grad()

x, y = samples(6400, seed=2)
y[2000:4000] = (y[2000:4000] + 1) % 4
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(TensorDataset(x, y), batch_size=64))

probe = taster.Batch(*samples(600, seed=3))  # trusted: nobody else can write to it, and it is never trained on
guarded = taster.Guarded(model, optimizer, taster.guard(probe))

refused = []
for x, y in loader:
    with guarded.step(x, y) as step, accelerator.accumulate(model):
        step.loss = cross_entropy(model(x), y)
        accelerator.backward(step.loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if step.refused:
        refused.append(step.record.step)

accuracy = (model(probe.x).argmax(1) == probe.y).float().mean()
print(f"refused batches: {refused}")
print(f"accuracy on the probe: {accuracy:.1%}")
