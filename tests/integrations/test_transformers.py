"""The guard around the Trainer of transformers."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taster import COMMIT, CandidateUpdate, Guard, ScreenedBatch, StepRecord, Verdict, reject, rewind
from taster.errors import CheckpointError, GuardError

transformers = pytest.importorskip("transformers", reason="needs the extra: pip install taster[transformers]")
pytest.importorskip("accelerate", reason="needs the extra: pip install taster[transformers]")
from taster.integrations.transformers import FILE, GuardCallback  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():  # advice of transformers on settings and hardware
        warnings.simplefilter("ignore")
        yield


def tiny_bert(**options: Any) -> Any:
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=40,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
            num_labels=3,
            **options,
        )
    )


def dataset(n: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    ids, labels = torch.randint(0, 40, (n, 6), generator=generator), torch.randint(0, 3, (n,), generator=generator)
    return [{"input_ids": i, "labels": int(y)} for i, y in zip(ids, labels, strict=True)]


def trainer_for(folder: Path, model: Any, *callbacks: Any, data: Any = None, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder),
        use_cpu=True,
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        **{"num_train_epochs": 1, "save_strategy": "no", "learning_rate": 1e-2, **options},
    )
    return transformers.Trainer(
        model, arguments, train_dataset=dataset(24) if data is None else data, callbacks=list(callbacks)
    )


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class Refuses:
    """A gate that refuses some steps."""

    def __init__(self, *steps: int, verdict: Verdict | None = None) -> None:
        self.steps, self.verdict = steps, reject("asked to") if verdict is None else verdict

    def __call__(self, update: CandidateUpdate) -> Verdict:
        return self.verdict if update.step in self.steps else COMMIT


class EveryThirdCommit:
    """A gate with a memory: refuses after two updates that it has let through."""

    def __init__(self) -> None:
        self.committed = 0

    def __call__(self, update: CandidateUpdate) -> Verdict:
        return reject("the third") if self.committed == 2 else COMMIT

    def observe(self, record: StepRecord, view: Any) -> None:
        self.committed = self.committed + 1 if record.verdict.committed else 0

    def state_dict(self) -> dict[str, Any]:
        return {"committed": self.committed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.committed = state["committed"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_empty_guard_changes_nothing(tmp_path: Path, accumulation: int) -> None:
    options = {"gradient_accumulation_steps": accumulation, "bf16": True}
    plain, guarded = tiny_bert(), tiny_bert()
    trainer_for(tmp_path, plain, **options).train()
    callback = GuardCallback(Guard())
    trainer_for(tmp_path, guarded, callback, **options).train()
    assert_same(weights(plain), weights(guarded))
    assert [record.verdict.committed for record in callback.records] == [True] * (6 // accumulation)
    assert callback.guarded.counters["committed"] == 6 // accumulation
    assert not guarded._forward_hooks


def test_what_is_refused_is_as_if_it_had_not_been_drawn(tmp_path: Path) -> None:
    refused = []
    model, data = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), dataset(24)
    callback = GuardCallback(Guard(gates=[Refuses(1, 2)]), on_refusal=lambda record, passes: refused.append(passes))
    options = {"lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"}
    trainer = trainer_for(tmp_path, model, callback, data=data, **options)
    trainer.train()
    assert [record.verdict.committed for record in callback.records] == [True, False, False, True, True, True]
    (passed,) = refused[0]
    assert torch.equal(passed["input_ids"], torch.stack([sample["input_ids"] for sample in data[4:8]]))
    other = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer_for(tmp_path, other, data=data[:4] + data[12:], **options).train()
    assert_same(weights(other), weights(model))


def test_a_whole_accumulated_update_is_undone(tmp_path: Path) -> None:
    model = tiny_bert()
    before = weights(model)
    callback = GuardCallback(Guard(gates=[Refuses(*range(9))]))
    trainer = trainer_for(tmp_path, model, callback, gradient_accumulation_steps=4)  # 4 batches, then the 2 left
    trainer.train()
    assert_same(before, weights(model))
    assert len(callback.records) == 2
    assert trainer.state.global_step == 2  # refused updates count
    assert not any(state for state in trainer.optimizer.state.values())
    # The schedule goes on.
    assert trainer.lr_scheduler.last_epoch == 2


def test_the_schedule_of_the_learning_rate_is_that_of_a_training_without_a_guard(tmp_path: Path) -> None:
    def rates(*callbacks: Any) -> list[float]:
        trainer = trainer_for(tmp_path, tiny_bert(), *callbacks, logging_steps=1)
        trainer.train()
        return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]

    assert rates(GuardCallback(Guard(gates=[Refuses(0, 2, 3)]))) == rates()


def test_the_record_has_the_loss_that_the_trainer_logs(tmp_path: Path) -> None:
    for accumulation in (1, 2):
        callback = GuardCallback(Guard())
        options = {"logging_steps": 1, "gradient_accumulation_steps": accumulation}
        trainer = trainer_for(tmp_path, tiny_bert(), callback, **options)
        trainer.train()
        logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert [record.loss for record in callback.records] == pytest.approx(logged, rel=1e-6)


def test_a_loss_made_outside_of_the_model_is_unknown(tmp_path: Path) -> None:
    callback = GuardCallback(Guard())
    trainer_for(tmp_path, tiny_bert(), callback, label_smoothing_factor=0.1).train()
    assert [record.loss for record in callback.records] == [None] * 6


def test_the_log_counts_refused_updates(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, tiny_bert(), GuardCallback(Guard(gates=[Refuses(1, 4)])), logging_steps=1)
    trainer.train()
    assert [entry["refused"] for entry in trainer.state.log_history if "loss" in entry] == [0, 1, 1, 1, 2, 2]


def test_gates_see_the_weights_before_and_after(tmp_path: Path) -> None:
    batch = {"input_ids": torch.stack([s["input_ids"] for s in dataset(6)]), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    seen = []

    def watch(update: CandidateUpdate) -> Verdict:
        with torch.no_grad():
            seen.append((float(update.before.loss(batch)), float(update.after.loss(batch))))
        return COMMIT

    model = tiny_bert()
    callback = GuardCallback(Guard(gates=[watch]))
    trainer_for(tmp_path, model, callback).train()
    assert len(callback.records) == len(seen) == 6  # what gates run is no forward pass of training
    for (_, after), (before, _) in itertools.pairwise(seen):
        assert after == before
    assert all(before != after for before, after in seen)
    model.eval()
    assert float(model(**batch).loss) == pytest.approx(seen[-1][1], rel=1e-6)


def test_a_rewind_goes_back_over_updates(tmp_path: Path) -> None:
    model = tiny_bert()
    before = weights(model)
    callback = GuardCallback(Guard(gates=[_Rewinds()]))
    trainer_for(tmp_path, model, callback, max_steps=3).train()
    assert callback.records[-1].verdict.steps == 2
    assert_same(before, weights(model))


class _Rewinds:
    max_rewind = 3

    def __call__(self, update: CandidateUpdate) -> Verdict:
        return rewind(2, "back to the start") if update.step == 2 else COMMIT


class Note(transformers.TrainerCallback):
    """Raises, or breaks off, where it is told to."""

    def __init__(self, event: str, step: int, error: BaseException | None = None) -> None:
        def act(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                if error is not None:
                    raise error
                control.should_training_stop = True

        setattr(self, event, act)


@pytest.mark.parametrize("event", ["on_step_begin", "on_substep_end", "on_pre_optimizer_step"])
def test_an_interrupt_leaves_nothing_that_was_not_judged(tmp_path: Path, event: str) -> None:
    model = tiny_bert()
    callback = GuardCallback(Guard())
    interrupt = Note(event, 1, KeyboardInterrupt())
    options = {"gradient_accumulation_steps": 2}
    trainer = trainer_for(tmp_path, model, callback, interrupt, **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert callback.guarded.in_transaction
    callback.roll_back()
    assert not callback.guarded.in_transaction
    assert len(callback.records) == 1
    once = tiny_bert()
    trainer_for(tmp_path, once, GuardCallback(Guard()), Note("on_step_end", 1), **options).train()
    assert_same(weights(once), weights(model))
    assert all(p.grad is None for p in model.parameters())


def test_an_interrupt_inside_the_optimizer_is_undone_by_the_next_training(tmp_path: Path) -> None:
    model = tiny_bert()
    before = weights(model)
    callback = GuardCallback(Guard())
    trainer = trainer_for(tmp_path, model, callback)
    trainer.create_optimizer()
    due = [True]

    def interrupt(*_: Any) -> None:
        if due:
            due.clear()
            raise KeyboardInterrupt

    # Called when the weights are changed already and nobody has judged them.
    trainer.optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)
    seen: list[dict[str, Tensor]] = []
    trainer.add_callback(_AtStepBegin(lambda: seen.append(weights(model))))
    trainer.train()
    assert_same(before, seen[0])


class _AtStepBegin(transformers.TrainerCallback):
    def __init__(self, call: Any) -> None:
        self.call = call

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.call()


def test_a_stop_between_micro_batches_is_undone_before_anything_is_saved(tmp_path: Path) -> None:
    model = tiny_bert()
    callback = GuardCallback(Guard())
    options = {"gradient_accumulation_steps": 2, "save_strategy": "epoch"}
    trainer = trainer_for(tmp_path, model, callback, Note("on_substep_end", 1), **options)
    trainer.train()
    assert len(callback.records) == 1
    assert not callback.guarded.in_transaction
    assert (tmp_path / "checkpoint-1" / FILE).exists()


def test_an_error_of_a_gate_undoes_the_update(tmp_path: Path) -> None:
    model = tiny_bert()
    before = weights(model)

    def broken(update: CandidateUpdate) -> Verdict:
        raise OSError("no probe")

    callback = GuardCallback(Guard(gates=[broken]))
    with pytest.raises(OSError, match="no probe"):
        trainer_for(tmp_path, model, callback).train()
    assert_same(before, weights(model))
    assert not callback.guarded.in_transaction


def test_a_further_training_goes_on_counting(tmp_path: Path) -> None:
    model = tiny_bert()
    callback = GuardCallback(Guard(gates=[Refuses(0, 7)]))
    trainer = trainer_for(tmp_path, model, callback)
    trainer.train()
    trainer.train()
    assert callback.guarded.counters["rejected"] == 2
    assert [record.step for record in callback.records] == [6, 7, 8, 9, 10, 11]


def test_a_resumed_training_has_the_same_verdicts_and_bits(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 2, "logging_steps": 1}

    def train(folder: Path, resume: str | None, checkpoint: Any = None) -> tuple[Any, GuardCallback]:
        model = tiny_bert()
        callback = GuardCallback(Guard(gates=[EveryThirdCommit(), _Rewinds()]), checkpoint=checkpoint)
        trainer_for(folder, model, callback, **options).train(resume_from_checkpoint=resume)
        return model, callback

    whole, first = train(tmp_path, None)
    checkpoint = tmp_path / "checkpoint-4"
    resumed, second = train(tmp_path, str(checkpoint))
    assert [r.verdict.action for r in second.records] == [r.verdict.action for r in first.records][4:]
    assert [r.loss for r in second.records] == [r.loss for r in first.records][4:]
    assert {r.verdict.committed for r in second.records} == {True, False}
    assert second.guarded.counters == first.guarded.counters
    assert_same(weights(whole), weights(resumed))
    # From another folder it has to be told.
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(CheckpointError, match="checkpoint="):
        train(elsewhere, str(checkpoint))
    moved, _ = train(elsewhere, str(checkpoint), checkpoint)
    assert_same(weights(whole), weights(moved))


def test_a_checkpoint_without_a_guard_is_said_to_be_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"save_strategy": "steps", "save_steps": 4}
    trainer_for(tmp_path, tiny_bert(), **options).train()
    callback = GuardCallback(Guard())
    trainer_for(tmp_path, tiny_bert(), callback, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert "saved without a guard" in caplog.text
    assert callback.guarded.counters["steps"] == 2


def test_a_checkpoint_of_another_guard_is_refused(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 4}
    trainer_for(tmp_path, tiny_bert(), GuardCallback(Guard(gates=[EveryThirdCommit()])), **options).train()
    other = trainer_for(tmp_path, tiny_bert(), GuardCallback(Guard()), **options)
    with pytest.raises(CheckpointError):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_models_alone_are_saved_without_the_guard(tmp_path: Path) -> None:
    trainer_for(tmp_path, tiny_bert(), GuardCallback(Guard()), save_strategy="epoch", save_only_model=True).train()
    assert "model.safetensors" in os.listdir(tmp_path / "checkpoint-6")
    assert FILE not in os.listdir(tmp_path / "checkpoint-6")


def test_checkpoints_hold_what_was_judged(tmp_path: Path) -> None:
    """A checkpoint taken right after a refused update is that of the one before."""
    options = {"save_strategy": "steps", "save_steps": 1}
    trainer_for(tmp_path, tiny_bert(), GuardCallback(Guard(gates=[Refuses(2)])), **options).train()
    read = transformers.BertForSequenceClassification.from_pretrained
    states = [weights(read(tmp_path / f"checkpoint-{step}")) for step in (2, 3, 4)]
    assert_same(states[0], states[1])
    assert not torch.equal(states[1]["classifier.weight"], states[2]["classifier.weight"])


def test_screens_are_refused_at_the_start(tmp_path: Path) -> None:
    def screen(admitted: ScreenedBatch[Any], view: Any) -> ScreenedBatch[Any]:
        return admitted

    with pytest.raises(GuardError, match="screens"):
        trainer_for(tmp_path, tiny_bert(), GuardCallback(Guard(screens=[screen]))).train()


def test_before_training_there_is_no_guarded_model() -> None:
    with pytest.raises(GuardError, match="when training begins"):
        GuardCallback(Guard()).guarded  # noqa: B018


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model, data = tiny_bert(), dataset(24)
    callback = GuardCallback(Guard())
    trainer = trainer_for(tmp_path, model, callback, data=data, max_grad_norm=0.0)
    hook = model.classifier.register_forward_hook(
        lambda module, _, output: output * float("nan") if trainer.state.global_step == 1 else output
    )
    trainer.train()
    hook.remove()
    assert [record.verdict.stage for record in callback.records] == ["", "finite_values", "", "", "", ""]
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize("way", ["activation_checkpointing", "torch_compile"])
def test_recomputed_and_compiled_models(tmp_path: Path, way: str) -> None:
    options: dict[str, Any] = {way: True, "max_steps": 3}
    if way == "torch_compile":
        options["torch_compile_backend"] = "eager"  # the compiler's back end is no matter of the guard
    batch = {"input_ids": torch.stack([s["input_ids"] for s in dataset(3)]), "labels": torch.tensor([0, 1, 2])}
    passes: list[Any] = []

    def gate(update: CandidateUpdate) -> Verdict:
        assert float(update.after.loss(batch)) > 0
        return reject("asked to") if update.step == 1 else COMMIT

    model = tiny_bert()
    states: list[dict[str, Tensor]] = []
    callback = GuardCallback(Guard(gates=[gate]), on_refusal=lambda _, given: passes.append(given))
    trainer_for(tmp_path, model, callback, _AtStepBegin(lambda: states.append(weights(model))), **options).train()
    assert [record.verdict.committed for record in callback.records] == [True, False, True]
    assert_same(states[1], states[2])
    assert not torch.equal(states[0]["classifier.weight"], states[1]["classifier.weight"])
    assert (passes[0] is None) == (way == "torch_compile")
