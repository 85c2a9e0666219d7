"""Autocast, accumulated gradients, a gradient scaler and a moving average of the weights, all of it one step.

python examples/mixed_precision.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import taster

torch.manual_seed(0)
x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
x, y = x.float() / 16, y.long()
trusted, x, y = taster.Batch(x[:500], y[:500]), x[500:], y[500:]

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(200):  # before anybody else may send digits
    drawn = torch.randint(len(x), (128,))
    nn.functional.cross_entropy(model(x[drawn]), y[drawn]).backward()
    optimizer.step()
    optimizer.zero_grad()
average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
scaler = torch.amp.GradScaler("cpu")
guarded = taster.Guarded(
    model, optimizer, taster.Guard(gates=taster.guard(trusted).gates), loss=nn.functional.cross_entropy,
    also=[average], scaler=scaler,
)  # fmt: skip

for step in range(60):
    with guarded.step() as attempt:
        for _ in range(4):  # four parts of a batch
            drawn = torch.randint(len(x), (32,))
            labels = (y[drawn] + 1) % 10 if 20 <= step < 35 else y[drawn]
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x[drawn]), labels) / 4
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        average.update_parameters(model)
    if attempt.refused:
        print(f"step {step}: {attempt.record.verdict.reason}")

right = (average(trusted.x).argmax(1) == trusted.y).float().mean()
print(f"accuracy of the average {100 * right:.1f} %, {dict(guarded.counters)}")
