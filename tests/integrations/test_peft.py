"""Adapters of PEFT: what is frozen costs nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from taster import COMMIT, CandidateUpdate, Guard, Guarded, SnapshotBuffer, Verdict, load_state, reject, save_state
from taster.errors import CheckpointError

transformers = pytest.importorskip("transformers", reason="needs the extra: pip install taster[transformers]")
peft = pytest.importorskip("peft", reason="needs the extra: pip install taster[transformers]")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def adapted(base_seed: int = 0, adapter_seed: int = 1) -> Any:
    """A language model with an adapter a few percent of its size."""
    torch.manual_seed(base_seed)
    config = transformers.GPT2Config(
        vocab_size=500, n_positions=16, n_embd=64, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    base = transformers.GPT2LMHeadModel(config)
    torch.manual_seed(adapter_seed)
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    return peft.get_peft_model(base, lora)


def all_parameters(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def trained_alone(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def batch(seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(0, 500, (4, 8), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


def nbytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def frozen(model: nn.Module) -> int:
    return nbytes(p for p in model.parameters() if not p.requires_grad)


def adapter(model: nn.Module) -> int:
    return nbytes(p for p in model.parameters() if p.requires_grad)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors(entry)


def small(guarded: Guarded) -> int:
    """Buffers, and the counts of Adam."""
    counts = nbytes(t for o in guarded.optimizers for t in tensors(o.state_dict()["state"]) if t.dim() == 0)
    return nbytes(guarded.state.module.buffers()) + counts


def train(guarded: Guarded, *seeds: int) -> None:
    for seed in seeds:
        with guarded.step(batch(seed)) as step:
            step.loss = guarded.model(**step.batch).loss
            step.loss.backward()
            guarded.optimizer.step()
            guarded.optimizer.zero_grad()


class Refuses:
    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def __call__(self, update: CandidateUpdate) -> Verdict:
        return reject("asked to") if update.step in self.steps else COMMIT


@pytest.mark.parametrize("make", [all_parameters, trained_alone])
def test_copies_snapshots_and_checkpoints_are_of_the_adapter(make: Any, tmp_path: Path) -> None:
    model = adapted()
    guarded = Guarded(model, make(model), Guard(), snapshots=SnapshotBuffer(3))
    assert frozen(model) > 50 * adapter(model)
    train(guarded, 0, 1, 2, 3)
    one = 3 * adapter(model) + small(guarded)  # weights and both moments of Adam
    assert guarded.state.backup.nbytes == one
    ring = [guarded.snapshots.at(step).to_dict() for step in guarded.snapshots.steps]
    assert len(ring) == 3
    for kept in ring:
        assert nbytes(tensors(kept)) == one
    path = tmp_path / "state.safetensors"
    save_state(path, guarded.state_dict())
    held = nbytes(tensors(load_state(path)))
    # What a module writes into its state of its own: no buffers that are not persistent.
    persistent = nbytes(t for name, t in model.state_dict().items() if name in dict(model.named_buffers()))
    counts = small(guarded) - nbytes(model.buffers())
    assert held == 3 * one + 3 * adapter(model) + counts + persistent
    assert path.stat().st_size < frozen(model) / 2


class _Made(TorchDispatchMode):
    """The bytes of tensors as large as one of these that operations have made."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        super().__init__()
        self.shapes = shapes
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tensors(args) if t.device.type != "meta"}
        for t in tensors(out):
            if t.device.type != "meta" and t.shape in self.shapes and t.untyped_storage().data_ptr() not in given:
                self.found.append(f"{func} {tuple(t.shape)}")
        return out


@pytest.mark.parametrize("make", [all_parameters, trained_alone])
def test_nothing_copies_frozen_weights(make: Any) -> None:
    """Neither a step, nor a gate that runs the model before and after it, the first time or later."""
    model = adapted()

    def gate(update: CandidateUpdate) -> Verdict:
        with torch.no_grad():
            seen.append((float(update.before.loss(batch(9))), float(update.after.loss(batch(9)))))
        return COMMIT

    seen: list[Any] = []
    guarded = Guarded(model, make(model), Guard(gates=[gate]), snapshots=SnapshotBuffer(2))
    # No activation has one of these shapes: a batch is [4, 8, ...].
    matrices = {p.shape for p in model.parameters() if not p.requires_grad and p.dim() == 2}
    with _Made(matrices | {torch.Size(reversed(shape)) for shape in matrices}) as made:
        train(guarded, 0, 1, 2)
    assert made.found == []
    assert all(math.isfinite(a) and a != b for a, b in seen[1:])


@pytest.mark.parametrize("make", [all_parameters, trained_alone])
def test_a_refused_step_leaves_the_adapter_bit_for_bit(make: Any) -> None:
    model = adapted()
    guarded = Guarded(model, make(model), Guard(gates=[Refuses(2)]))
    train(guarded, 0, 1)
    before = {name: value.clone() for name, value in peft.get_peft_model_state_dict(model).items()}
    moments = [t.clone() for t in tensors(guarded.optimizer.state_dict()["state"])]
    train(guarded, 2)
    assert guarded.counters["rejected"] == 1
    after = peft.get_peft_model_state_dict(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(map(torch.equal, moments, tensors(guarded.optimizer.state_dict()["state"])))
    train(guarded, 3)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_checkpoint_goes_on_over_the_same_base(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    first = adapted()
    guarded = Guarded(first, trained_alone(first), Guard(), snapshots=SnapshotBuffer(2))
    train(guarded, 0, 1)
    save_state(path, guarded.state_dict())
    train(guarded, 2, 3)
    second = adapted(adapter_seed=2)
    again = Guarded(second, trained_alone(second), Guard(), snapshots=SnapshotBuffer(2))
    again.load_state_dict(load_state(path))
    train(again, 2, 3)
    assert again.counters == guarded.counters
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_another_base_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model = adapted()
    guarded = Guarded(model, trained_alone(model), Guard())
    train(guarded, 0)
    save_state(path, guarded.state_dict())
    other = adapted(base_seed=5)
    again = Guarded(other, trained_alone(other), Guard())
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="other frozen weights"):
        again.load_state_dict(load_state(path))
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_the_trainers_checkpoints_hold_one_adapter_for_each_snapshot(tmp_path: Path) -> None:
    from taster.integrations.transformers import FILE, GuardCallback

    model = adapted()
    arguments = transformers.TrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=4, per_device_train_batch_size=4, report_to=[], disable_tqdm=True
    )
    data = [{"input_ids": ids, "labels": ids} for seed in range(4) for ids in batch(seed)["input_ids"]]
    callback = GuardCallback(Guard(gates=[Refuses(2)]), snapshots=SnapshotBuffer(2))
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    held = nbytes(tensors(load_state(tmp_path / "checkpoint-4" / FILE)))
    assert held == 2 * (3 * adapter(model) + small(callback.guarded))
    assert [record.verdict.committed for record in callback.records] == [True, True, False, True]
    assert callback.records[0].loss is not None
