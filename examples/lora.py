"""A language model that learns through an adapter (LoRA), a stretch of what it reads turned round."""

import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import taster

WORDS, LENGTH = 64, 16


def texts(n, seed, step=1):
    """Texts that count upwards, by one or by another step."""
    start = torch.randint(0, WORDS, (n, 1), generator=torch.Generator().manual_seed(seed))
    ids = (start + step * torch.arange(LENGTH)) % WORDS
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


torch.manual_seed(0)
config = GPT2Config(
    vocab_size=WORDS, n_positions=LENGTH, n_embd=128, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
)
base = GPT2LMHeadModel(config)
optimizer = torch.optim.AdamW(base.parameters(), lr=2e-3)
for i in range(60):  # the pretrained model
    base(**texts(32, seed=i)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
model = get_peft_model(base, lora)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

probe = taster.Batch(texts(200, seed=1000))  # trusted: nobody else can write to it, and it is never trained on
guarded = taster.Guarded(model, optimizer, taster.guard(probe, task="next_tokens"))

refused = []
for i in range(60):
    with guarded.step(texts(16, seed=2000 + i, step=-1 if 20 <= i < 40 else 1)) as step:
        step.loss = model(**step.batch).loss
        step.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if step.refused:
        refused.append(step.record.step)

path = Path(tempfile.mkdtemp()) / "state.safetensors"
taster.save_state(path, guarded.state_dict())
frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
print(f"refused updates: {refused}")
print(f"frozen weights: {frozen / 1e3:.0f} kB; the copy to go back to: {guarded.state.backup.nbytes / 1e3:.0f} kB")
print(f"checkpoint with {len(guarded.snapshots.steps)} snapshots: {path.stat().st_size / 1e3:.0f} kB")
model.eval()
print(f"loss on the probe: {model(**probe.x).loss:.3f}")
