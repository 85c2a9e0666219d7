"""A language model that keeps learning from text other people send, and the steps at which they send nonsense.

python examples/language_model.py
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import taster

torch.manual_seed(0)


def text(n: int) -> dict[str, torch.Tensor]:
    """Sequences that count upwards by one or two, modulo 11; the first two tokens are given and count for nothing."""
    ids = (torch.randint(0, 11, (n, 1)) + torch.randint(1, 3, (n, 1)) * torch.arange(8)) % 11
    labels = ids.clone()
    labels[:, :2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=11, n_positions=8)).eval()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(250):  # before anybody else may send text
    model(**text(64)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
optimizer.param_groups[0]["lr"] = 1e-3

# The model computes its loss itself. That labels are those of the next place is told from this loss.
learner = taster.Learner(model, optimizer, guard=taster.guard(taster.Batch(text(200))))

for step in range(60):
    batch = text(32)
    if 20 <= step < 35:  # somebody writes backwards
        batch["input_ids"] = batch["input_ids"].flip(1)
        batch["labels"] = batch["input_ids"]
    record = learner.step(batch)
    if not record.verdict.committed:
        print(f"step {step}: {record.verdict.reason}")

test = text(500)["input_ids"]
right = (model(input_ids=test).logits[:, 1:-1].argmax(-1) == test[:, 2:]).float().mean()
print(f"right tokens {100 * right:.1f} %, {dict(learner.counters)}")
