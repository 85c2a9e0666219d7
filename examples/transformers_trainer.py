"""A classifier that keeps learning by the Trainer of transformers, a stretch of its new data with false labels."""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import taster
from taster.integrations.transformers import GuardCallback

WORDS, LENGTH, BATCH = 30, 16, 32


def sentences(n, seed):
    """Sentences, and the third of the vocabulary that each of them is about."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    about = torch.randint(0, WORDS // 3, (n, LENGTH), generator=generator) + labels[:, None] * (WORDS // 3)
    other = torch.randint(0, WORDS, (n, LENGTH), generator=generator)
    return torch.where(torch.rand(n, LENGTH, generator=generator) < 0.5, about, other), labels


def dataset(x, y):
    """As the Trainer takes it."""
    return [{"input_ids": ids, "labels": label} for ids, label in zip(x, y.tolist(), strict=True)]


def train(model, data, **options):
    """One epoch, in the order of the data."""
    arguments = TrainingArguments(
        tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=2e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        train_sampling_strategy="sequential",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    Trainer(model, arguments, train_dataset=data, **options).train()


torch.manual_seed(0)
config = BertConfig(
    vocab_size=WORDS,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=3,
    initializer_range=0.1,
)
model = BertForSequenceClassification(config)
train(model, dataset(*sentences(150 * BATCH, seed=1)))  # what the model knew before

# Trusted samples: nobody else can write to them, and they are never trained on.
x, y = sentences(600, seed=2)
probe = taster.Batch({"input_ids": x, "attention_mask": torch.ones_like(x), "labels": y})

x, y = sentences(60 * BATCH, seed=3)
y[20 * BATCH : 40 * BATCH] = (y[20 * BATCH : 40 * BATCH] + 1) % 3  # updates 20 to 39 teach what is wrong
callback = GuardCallback(taster.guard(probe))
train(model, dataset(x, y), callbacks=[callback])

refused = [record.step for record in callback.records if not record.verdict.committed]
print(f"refused updates: {refused}")
model.eval()
correct = model(input_ids=probe.x["input_ids"]).logits.argmax(1) == probe.x["labels"]
print(f"accuracy on the probe: {correct.float().mean():.1%}")
