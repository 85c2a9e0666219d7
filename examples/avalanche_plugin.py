"""A guard as a plugin of Avalanche: what a strategy does between its forward pass and its update is one step.

pip install avalanche-lib
python examples/avalanche_plugin.py
"""

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from sklearn.datasets import load_digits
from torch import nn

import taster


class GuardPlugin(SupervisedPlugin):
    """Judges every update of a strategy; further arguments are those of `taster.Guarded`."""

    def __init__(self, guard: taster.Guard, **options) -> None:
        super().__init__()
        self.guard, self.options = guard, options
        self.guarded = None

    def before_training_exp(self, strategy, **_):
        """Makes the guard; later on, tells it of a model and an optimizer that were adapted to the experience."""
        if self.guarded is None:
            self.guarded = taster.Guarded(strategy.model, strategy.optimizer, self.guard, **self.options)
        else:
            self.guarded.rebuild(strategy.model, strategy.optimizer)

    def before_training_iteration(self, strategy, **_):
        """Begins a step."""
        self.step = self.guarded.step(strategy.mb_x, strategy.mb_y)
        self.step.__enter__()

    def after_update(self, strategy, **_):
        """Ends it: what the guard refuses is undone."""
        self.step.loss = strategy.loss
        self.step.__exit__(None, None, None)
        if self.step.refused:
            print(f"step {self.step.record.step}: {self.step.record.verdict.reason}")


def experience(x, y):
    """Data of one experience."""
    samples = torch.utils.data.TensorDataset(x, y)
    samples.targets = y.tolist()
    return as_classification_dataset(samples)


if __name__ == "__main__":
    torch.manual_seed(0)
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x, y = x.float() / 16, y.long()
    trusted, rest, labels = taster.Batch(x[:500], y[:500]), x[500:], y[500:]
    poison = (labels + 1) % 10
    stream = [experience(rest[i : i + 400], (poison if i == 400 else labels)[i : i + 400]) for i in (0, 400, 800)]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(300):  # a guard is for a model that has learned already
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rest[:400]), labels[:400]).backward()
        optimizer.step()
    plugin = GuardPlugin(taster.Guard(gates=taster.guard(trusted).gates))
    strategy = Naive(
        model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), train_mb_size=40, plugins=[plugin]
    )
    for part in benchmark_from_datasets(train=stream, test=stream[:1]).train_stream:
        strategy.train(part)
        right = (model(trusted.x).argmax(1) == trusted.y).float().mean()
        print(f"{dict(plugin.guarded.counters)}, {100 * right:.1f} % of the trusted samples right")
