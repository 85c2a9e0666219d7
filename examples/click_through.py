"""Click-through rates: embeddings of users and items, one logit, batches that are dictionaries.

python examples/click_through.py
"""

import torch
from torch import Tensor, nn

import taster

torch.manual_seed(0)
taste, kind = torch.randn(200, 4), torch.randn(100, 4)


class ClickModel(nn.Module):
    """A factorization machine: how well a user's vector fits an item's."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(200, 8, sparse=True), nn.Embedding(100, 8, sparse=True)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Logits, [n]."""
        return (self.users(user) * self.items(item)).sum(1)


def impressions(n: int) -> tuple[dict[str, Tensor], Tensor]:
    """What was shown to whom, and whether they clicked."""
    user, item = torch.randint(0, 200, (n,)), torch.randint(0, 100, (n,))
    return {"user": user, "item": item}, ((taste[user] * kind[item]).sum(1) > 0).float()


model = ClickModel()
optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=0.02)
loss = nn.functional.binary_cross_entropy_with_logits
for _ in range(400):  # the log of last month
    x, y = impressions(512)
    loss(model(**x), y).backward()
    optimizer.step()
    optimizer.zero_grad()

x, y = impressions(1000)
guard = taster.guard(taster.Batch(x, y), task="binary")
learner = taster.Learner(model, optimizer, loss, guard)

for step in range(80):
    x, y = impressions(512)
    if 30 <= step < 50:  # a click farm: clicks on whatever nobody likes, and on nothing else
        y = 1 - y
    record = learner.step(x, y)
    if not record.verdict.committed:
        print(f"step {step}: {record.verdict.reason}")

x, y = impressions(5000)
right = ((model(**x) > 0) == (y > 0.5)).float().mean()
print(f"accuracy {100 * right:.1f} %, {dict(learner.counters)}")
