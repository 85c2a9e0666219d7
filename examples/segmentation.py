"""A class for every pixel, of which some count for nothing (255).

python examples/segmentation.py
"""

import torch
from torch import Tensor, nn

import taster

torch.manual_seed(0)


def scenes(n: int) -> tuple[Tensor, Tensor]:
    """Discs on a dark ground, [n, 1, 16, 16], and masks: ground 0, disc 1, and 255 at the left border."""
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    center, radius = torch.randint(4, 12, (n, 2, 1, 1)), torch.randint(2, 5, (n, 1, 1))
    disc = (row - center[:, 0]) ** 2 + (column - center[:, 1]) ** 2 <= radius**2
    masks = disc.long()
    masks[:, :, 0] = 255
    return (0.7 * disc + 0.3 * torch.rand(n, 16, 16))[:, None], masks


model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
loss = nn.CrossEntropyLoss(ignore_index=255)
for _ in range(150):  # before anybody else may send masks
    x, y = scenes(32)
    loss(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()

learner = taster.Learner(model, optimizer, loss, taster.guard(taster.Batch(*scenes(300))))

for step in range(60):
    x, y = scenes(32)
    if 20 <= step < 30:  # an annotator paints discs as ground
        y[y == 1] = 0
    record = learner.step(x, y)
    if not record.verdict.committed:
        print(f"step {step}: {record.verdict.reason}")

x, y = scenes(500)
found = model(x).argmax(1)
overlap = ((found == 1) & (y == 1)).sum() / (((found == 1) | (y == 1)) & (y != 255)).sum()
print(f"intersection over union {overlap:.3f}, {dict(learner.counters)}")
