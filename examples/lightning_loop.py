"""A Lightning module that keeps learning after its release, with wrong labels in the middle of its data.

pip install "taster[lightning]"
python examples/lightning_loop.py
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import taster
from taster.integrations.lightning import GuardCallback


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        return cross_entropy(self(x), y)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


pl.seed_everything(0)
y = torch.arange(3600) % 4
x = 2 * torch.randn(4, 8)[y] + torch.randn(3600, 8)  # four clouds of points
probe, test = taster.Batch(x[:500], y[:500]), TensorDataset(x[500:1000], y[500:1000])
stream_x, stream_y = x[2000:], y[2000:].clone()
stream_y[640:960] = (stream_y[640:960] + 1) % 4  # batches 20 to 29: every label is wrong


def trainer(*callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1, callbacks=list(callbacks), gradient_clip_val=1.0, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


model = Classifier()
trainer().fit(model, DataLoader(TensorDataset(x[1000:2000], y[1000:2000]), batch_size=10))  # before the release
guard = GuardCallback(taster.guard(probe))
trainer(guard).fit(model, DataLoader(TensorDataset(stream_x, stream_y), batch_size=32))

for record in guard.records:
    if not record.verdict.committed:
        print(f"step {record.step}: {record.verdict.reason}")
(told,) = trainer().validate(model, DataLoader(test, batch_size=500), verbose=False)
print(f"accuracy {told['accuracy']:.3f}")
