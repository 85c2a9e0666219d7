"""A guard's counters in Prometheus' text format, and the alert that a rise of refusals deserves.

python examples/prometheus_metrics.py
"""

import os
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import taster

OUTCOMES = ("committed", "rejected", "rewound")


def metrics(learner):
    """The counters as Prometheus reads them. A counter never falls: restore the learner's state after a restart."""
    lines = ["# HELP taster_updates_total Updates by what the guard decided.", "# TYPE taster_updates_total counter"]
    lines += [f'taster_updates_total{{outcome="{name}"}} {learner.counters[name]}' for name in OUTCOMES]
    lines += ["# HELP taster_samples_total Samples that came.", "# TYPE taster_samples_total counter"]
    lines += [f"taster_samples_total {learner.counters['samples']}"]
    return "\n".join(lines) + "\n"


def publish(text, path):
    """Replaces the file at once, so that the textfile collector never reads half of it."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


torch.manual_seed(0)
x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
x = x.float() / 16
trusted = torch.utils.data.TensorDataset(x[:300], y[:300])
x, y = x[300:], y[300:]

model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
for _ in range(300):  # before anybody else may send digits
    drawn = torch.randint(len(x), (32,))
    nn.functional.cross_entropy(model(x[drawn]), y[drawn]).backward()
    optimizer.step()
    optimizer.zero_grad()
learner = taster.Learner(model, optimizer, nn.functional.cross_entropy, taster.guard(trusted))

file = Path(tempfile.mkdtemp()) / "taster.prom"  # the folder of --collector.textfile.directory
alarms, window = [], []
for step in range(80):
    drawn = torch.randint(len(x), (32,))
    labels = (y[drawn] + 1) % 10 if 30 <= step < 50 else y[drawn]  # wrong labels on purpose
    record = learner.step(x[drawn], labels)
    publish(metrics(learner), file)
    window = [*window[-19:], not record.verdict.committed]
    if sum(window) > 0.1 * 20:  # the rule of prometheus_alerts.yml, with steps in place of minutes
        alarms.append(step)

print(file.read_text(), end="")
print(f"alarm at steps: {alarms}")
