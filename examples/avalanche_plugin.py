"""A guard as a plugin of Avalanche: what a strategy does between its forward pass and its update is one step.

pip install avalanche-lib
python examples/avalanche_plugin.py
"""

import torch
from avalanche.benchmarks import nc_benchmark
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


if __name__ == "__main__":
    torch.manual_seed(0)
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x, y = x.float() / 16, y.long()
    labels = y[500:].clone()
    labels[640:960] = (labels[640:960] + 1) % 10  # poison
    data = [
        as_classification_dataset(torch.utils.data.TensorDataset(a, b), transform_groups=None)
        for a, b in ((x[500:], labels), (x[:500], y[:500]))
    ]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    plugin = GuardPlugin(taster.Guard(gates=taster.guard(taster.Batch(x[:500], y[:500])).gates))
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), criterion=nn.CrossEntropyLoss(),
        train_mb_size=32, train_epochs=4, plugins=[plugin],
    )  # fmt: skip
    for experience in nc_benchmark(*data, n_experiences=1, task_labels=False, shuffle=False).train_stream:
        strategy.train(experience, shuffle=False)
    print(dict(plugin.guarded.counters))
