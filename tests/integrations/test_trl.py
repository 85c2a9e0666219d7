"""The guard around the trainers of TRL, which are Trainers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taster import COMMIT, CandidateUpdate, Guard, Verdict, reject

transformers = pytest.importorskip("transformers", reason="needs the extra: pip install taster[transformers]")
peft = pytest.importorskip("peft", reason="needs the extra: pip install taster[transformers]")
trl = pytest.importorskip("trl", reason="needs TRL: pip install trl")

from taster.integrations.transformers import GuardCallback  # noqa: E402

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(40))]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def language_model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=1, n_head=2, pad_token_id=0, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def changed(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("adapter", [False, True])
def test_supervised_fine_tuning(tmp_path: Path, adapter: bool) -> None:
    from datasets import Dataset

    ids = torch.randint(3, len(WORDS), (4, 8))
    losses: list[float] = []
    states: list[dict[str, Tensor]] = []
    passes: list[list[dict[str, Any]]] = []

    def gate(update: CandidateUpdate) -> Verdict:
        with torch.no_grad():
            losses.append(float(update.after.loss({"input_ids": ids, "labels": ids})))
        return reject("asked to") if update.step == 1 else COMMIT

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            states.append(changed(model))

    callback = GuardCallback(Guard(gates=[gate]), on_refusal=lambda record, given: passes.append(given))
    trainer = trl.SFTTrainer(
        language_model(),
        trl.SFTConfig(
            str(tmp_path),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_steps=3,
            learning_rate=1e-2,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list(
            [{"text": " ".join(f"w{(7 * i + j) % 40}" for j in range(8))} for i in range(24)]
        ),
        processing_class=tokenizer(),
        peft_config=peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True) if adapter else None,
        callbacks=[callback, Watch()],
    )
    trainer.train()
    assert [record.verdict.committed for record in callback.records] == [True, False, True]
    assert all(record.loss is not None and math.isfinite(record.loss) for record in callback.records)
    assert [given["input_ids"].shape for given in passes[0]] == [(4, 9), (4, 9)]  # two micro batches
    assert len(set(losses)) == 3
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
    if adapter:
        assert callback.guarded.state.backup.nbytes < 4 * sum(v.numel() * 4 for v in states[0].values())
