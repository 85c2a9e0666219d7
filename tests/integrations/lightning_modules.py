"""Small Lightning modules, and gates for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from taster import Batch, CandidateUpdate, Verdict, reject
from taster.core.verdict import COMMIT

lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra: pip install taster[lightning]")

BATCHES = [tiny_batch(8, seed=i) for i in range(6)]


class Module(lightning.LightningModule):
    """Automatic optimization."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = TinyNet()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch.values() if isinstance(batch, dict) else batch
        return cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}}


class Gan(lightning.LightningModule):
    """Manual optimization with two optimizers, and schedulers that the module steps itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 36))
        self.critic = nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.generator(z)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        optimizers = self.optimizers()
        real = batch[0].flatten(1)
        noise = real[:, :2].detach()
        for optimizer, loss in (
            (optimizers[0], lambda: -self.critic(self(noise)).mean()),
            (optimizers[1], lambda: self.critic(self(noise).detach()).mean() - self.critic(real).mean()),
        ):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            found = loss()
            self.manual_backward(found)
            self.clip_gradients(optimizer, gradient_clip_val=1.0)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        for scheduler in self.lr_schedulers():
            scheduler.step()
        return found.detach()

    def configure_optimizers(self) -> Any:
        optimizers = [torch.optim.Adam(self.generator.parameters(), 0.01), torch.optim.Adam(self.critic.parameters())]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


def loader(batches: Sequence[Batch] = BATCHES, size: int = 8) -> DataLoader[Any]:
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    return DataLoader(TensorDataset(x, y), batch_size=size)


def trainer_of(*callbacks: Any, **options: Any) -> Any:
    quiet = {
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
    }
    return lightning.Trainer(callbacks=list(callbacks), **{**quiet, **options})


def fit(module: Any, *callbacks: Any, data: Any = None, **options: Any) -> Any:
    trainer = trainer_of(*callbacks, **options)
    trainer.fit(module, loader() if data is None else data)
    return trainer


class Refuses:
    """A gate that refuses some steps."""

    name = "refuses"

    def __init__(self, *steps: int) -> None:
        self.steps, self.seen = steps, 0

    def __call__(self, change: CandidateUpdate) -> Verdict:
        return reject("asked to") if change.step in self.steps else COMMIT

    def observe(self, record: Any, view: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def whole(module: torch.nn.Module, trainer: Any) -> dict[str, Any]:
    """What a step may change: the model and its optimizers."""
    optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]
    return {"model": weights(module), "optimizers": optimizers}
