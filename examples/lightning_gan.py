"""Manual optimization with two optimizers under Lightning: every batch makes one step, whatever happens in it.

pip install "taster[lightning]"
python examples/lightning_gan.py
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import taster
from taster.integrations.lightning import GuardCallback


class Gan(pl.LightningModule):
    """Learns points on a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.generator(z)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        of_generator, of_critic = self.optimizers()
        fake = self(torch.randn(len(batch[0]), 4))
        of_critic.zero_grad()
        self.manual_backward(self.critic(fake.detach()).sigmoid().mean() - self.critic(batch[0]).sigmoid().mean())
        of_critic.step()
        of_generator.zero_grad()
        self.manual_backward(-self.critic(fake).sigmoid().mean())
        of_generator.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(net.parameters(), lr=0.01) for net in (self.generator, self.critic)]


pl.seed_everything(0)
angle = 6.28 * torch.rand(1500, 1)
points = torch.cat([angle.cos(), angle.sin()], dim=1)
trusted, points = points[:500], points[500:].clone()
points[500:750] *= 8  # batches 20 to 29
limit = 2 * trusted.norm(dim=1).max()


def far_off(screened: taster.ScreenedBatch, view: taster.View) -> taster.ScreenedBatch:
    """A screen: drops points that lie far from all trusted ones."""
    (found,) = screened.batch.x
    return screened.drop(found.norm(dim=1) > limit, "all points are far off")


def moves_away(update: taster.CandidateUpdate) -> taster.Verdict:
    """A gate: what is generated may not run away."""
    noise = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    if update.after.forward(noise).norm(dim=1).mean() > limit:
        return taster.reject("the generator has left the circle")
    return taster.COMMIT


guard = GuardCallback(taster.Guard(screens=[far_off], gates=[moves_away]))
model = Gan()
pl.Trainer(
    max_epochs=1, callbacks=[guard], accelerator="cpu",
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
).fit(model, DataLoader(TensorDataset(points), batch_size=25))  # fmt: skip
for record in guard.records:
    if not record.verdict.committed:
        print(f"step {record.step}: {record.verdict.reason}")
