"""Regression: what counts is explained variance (R²), and a hundredth of it is one point.

python examples/regression.py
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import TensorDataset

import taster

torch.manual_seed(0)
x, y = (torch.as_tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
x, y = 20 * x, ((y - y.mean()) / y.std())[:, None]  # [n, 10] and [n, 1], as the outputs: [n] would be an error
trusted, x, y = TensorDataset(x[:150], y[:150]), x[150:], y[150:]

model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for _ in range(150):  # before anybody else may send measurements
    drawn = torch.randint(len(x), (32,))
    nn.functional.mse_loss(model(x[drawn]), y[drawn]).backward()
    optimizer.step()
    optimizer.zero_grad()

# 150 samples and noisy targets: steps of less than three points are not told from chance anyway.
guard = taster.guard(trusted, task="regression", tolerance=3.0)
learner = taster.Learner(model, optimizer, nn.functional.mse_loss, guard)

for step in range(80):
    drawn = torch.randint(len(x), (32,))
    targets = y[drawn]
    if 30 <= step < 50:  # a meter that shows everything with the wrong sign
        targets = -3 * targets
    record = learner.step(x[drawn], targets)
    if not record.verdict.committed:
        print(f"step {step}: {record.verdict.reason}")

kept = model(trusted.tensors[0])
explained = 1 - (kept - trusted.tensors[1]).square().mean() / trusted.tensors[1].var()
print(f"explained variance {explained:.2f}, {dict(learner.counters)}")
