"""Class-incremental learning with replay: the head grows, and the guard stays.

python examples/growing_head.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import taster

torch.manual_seed(0)
x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
x, y = x.float() / 16, y.long()
held_out, stream = torch.arange(len(y)) < 600, torch.arange(len(y)) >= 600


def known(part: torch.Tensor, classes: int) -> taster.Batch:
    """The samples of the classes seen so far."""
    chosen = part & (y < classes)
    return taster.Batch(x[chosen], y[chosen])


def sgd() -> torch.optim.Optimizer:
    """An optimizer of all weights that there are now."""
    return torch.optim.SGD(model.parameters(), lr=0.1)


model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
learner = taster.Learner(model, sgd(), nn.functional.cross_entropy, taster.guard(known(held_out, 2)))
for classes in (2, 4, 6, 8, 10):
    if classes > 2:
        old = model[2]
        model[2] = nn.Linear(64, classes)
        with torch.no_grad():
            model[2].weight[: len(old.weight)], model[2].bias[: len(old.bias)] = old.weight, old.bias
        learner.guard.set_trusted_data(known(held_out, classes))
        learner.rebuild(optimizer=sgd())
    replay = known(stream, classes)  # of all classes, the new ones too
    for step in range(100):
        drawn = torch.randint(len(replay), (64,))
        labels = replay.y[drawn]
        if classes == 6 and 60 <= step < 75:  # the memory has been tampered with
            labels = classes - 1 - labels
        record = learner.step(replay.x[drawn], labels, trusted=step < 40)  # the first ones were checked by hand
        if not record.verdict.committed:
            print(f"{classes} classes, step {step}: {record.verdict.reason}")
    probe = known(held_out, classes)
    print(f"{classes} classes: accuracy {learner.view().accuracy(probe.x, probe.y):.1f} %")
print(dict(learner.counters))
