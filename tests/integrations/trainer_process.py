"""One process of a Trainer, for `test_transformers_processes`: `python trainer_process.py folder`, rank in the
environment. Prints what became of its updates, and the sum of its weights."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import transformers

import taster
from taster.integrations.transformers import GuardCallback

RANK = int(os.environ["RANK"])


def dataset(n: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    ids, labels = torch.randint(0, 40, (n, 6), generator=generator), torch.randint(0, 3, (n,), generator=generator)
    return [{"input_ids": i, "labels": int(y)} for i, y in zip(ids, labels, strict=True)]


def second_process_refuses(update: taster.CandidateUpdate) -> taster.Verdict:
    """Only one process has a reason."""
    return taster.reject(f"by {RANK}") if update.step == 1 and RANK == 1 else taster.COMMIT


class Watch(transformers.TrainerCallback):  # type: ignore[misc]
    """The sum of the weights after each step."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.sums.append(float(sum(p.detach().double().sum() for p in model.parameters())))


def main(folder: str, *resume: str) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    callback = GuardCallback(taster.Guard(gates=[second_process_refuses]))
    watch = Watch()
    arguments = transformers.TrainingArguments(
        folder,
        use_cpu=True,
        ddp_backend="gloo",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=dataset(32),
        callbacks=[callback, watch],
    )
    trainer.train(resume_from_checkpoint=resume[0] if resume else None)
    told = {
        "verdicts": [[record.verdict.action.name, record.verdict.reason] for record in callback.records],
        "losses": [record.loss for record in callback.records],
        "logged": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "sums": watch.sums,
        "steps": callback.guarded.counters["steps"],
    }
    print("TOLD " + json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
