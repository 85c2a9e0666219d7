"""A classifier fine-tuned by the Trainer of transformers, a stretch of its data with false labels."""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import taster
from taster.integrations.transformers import GuardCallback

WORDS, LENGTH, BATCH = 30, 12, 32


def sentences(n, seed):
    """Sentences, and the third of the vocabulary that each of them is about."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    words = torch.randint(0, WORDS // 3, (n, LENGTH), generator=generator) + labels[:, None] * (WORDS // 3)
    noise = torch.randint(0, WORDS, (n, LENGTH), generator=generator)
    return torch.where(torch.rand(n, LENGTH, generator=generator) < 0.5, words, noise), labels


torch.manual_seed(0)
config = BertConfig(
    vocab_size=WORDS,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=LENGTH,
    num_labels=3,
)
model = BertForSequenceClassification(config)

# Trusted samples, which nobody else can write to and which are never trained on.
x, y = sentences(600, seed=1)
probe = taster.Batch({"input_ids": x, "attention_mask": torch.ones_like(x), "labels": y})

x, y = sentences(120 * BATCH, seed=2)
y[70 * BATCH : 90 * BATCH] = (y[70 * BATCH : 90 * BATCH] + 1) % 3  # updates 70 to 89 teach what is wrong
dataset = [{"input_ids": ids, "labels": int(label)} for ids, label in zip(x, y, strict=True)]

callback = GuardCallback(taster.guard(probe))
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=BATCH,
        learning_rate=3e-3,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        logging_steps=20,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    Trainer(model, arguments, train_dataset=dataset, callbacks=[callback]).train()

refused = [record.step for record in callback.records if not record.verdict.committed]
model.eval()
accuracy = (model(**{"input_ids": probe.x["input_ids"]}).logits.argmax(1) == probe.x["labels"]).float().mean()
print(f"refused updates: {refused}")
print(f"accuracy: {accuracy:.1%}")
