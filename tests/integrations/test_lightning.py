"""The guard around Lightning's loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.utils.data import DataLoader

from taster import Batch, CandidateUpdate, Guard, ScreenedBatch, Verdict
from taster.core.verdict import COMMIT
from taster.errors import BatchError, GuardError

lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra: pip install taster[lightning]")
from lightning.pytorch.strategies import (  # noqa: E402
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from tests.conftest import tiny_learner  # noqa: E402
from tests.integrations.lightning_modules import BATCHES, Module, Refuses, fit, loader, weights  # noqa: E402

from taster.integrations.lightning import GuardCallback  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # Lightning's advice on data loaders and loggers
        warnings.simplefilter("ignore")
        yield


def test_an_empty_guard_changes_nothing() -> None:
    plain, guarded = Module(), Module()
    fit(plain)
    callback = GuardCallback(Guard())
    fit(guarded, callback)
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(guarded)[name]), name
    assert [r.verdict.committed for r in callback.records] == [True] * 6
    assert callback.guarded.counters["samples"] == 48


def test_what_is_refused_is_as_if_it_had_not_been_drawn() -> None:
    module, refused = Module(), []
    callback = GuardCallback(Guard(gates=[Refuses(2, 3)]), on_refusal=lambda record, batch: refused.append(batch))
    fit(module, callback)
    assert [r.verdict.committed for r in callback.records] == [True, True, False, False, True, True]
    assert torch.equal(refused[0].x, BATCHES[2].x)
    assert torch.equal(refused[1].y, BATCHES[3].y)
    # The same by hand; StepLR counts epochs, so that the rate is one all through.
    other = tiny_learner()
    for i in (0, 1, 4, 5):
        other.step(BATCHES[i])
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, module.net.state_dict()[name]), name


def test_screens_change_what_the_module_sees() -> None:
    def first_half(admitted: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
        return admitted.drop(torch.arange(len(admitted.batch)) >= 4, "")

    module = Module()
    callback = GuardCallback(Guard(screens=[first_half]))
    fit(module, callback)
    assert [r.dropped for r in callback.records] == [4] * 6
    other = tiny_learner()
    for batch in BATCHES:
        other.step(batch.select(slice(4)))
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, module.net.state_dict()[name]), name


def test_a_batch_that_is_dropped_whole_is_not_learned() -> None:
    module = Module()
    before = weights(module)
    callback = GuardCallback(Guard(screens=[lambda admitted, view: admitted.drop(admitted.batch.y >= 0, "all bad")]))
    fit(module, callback)
    assert [r.verdict.reason for r in callback.records] == ["all bad"] * 6
    assert all(torch.equal(value, before[name]) for name, value in weights(module).items())


def test_a_batch_of_another_form_goes_whole_or_is_taken_apart() -> None:
    x, y = BATCHES[0].x, BATCHES[0].y
    data = DataLoader([{"image": x, "label": y}], batch_size=None)
    refused = []
    guard = Guard(gates=[Refuses(0)])
    fit(Module(), GuardCallback(guard, on_refusal=lambda record, batch: refused.append(batch)), data=data)
    assert torch.equal(refused[0].x["image"], x)
    callback = GuardCallback(Guard(), samples=lambda batch: (batch["image"], batch["label"]))
    fit(Module(), callback, data=data)
    assert callback.guarded.counters["committed"] == 1
    assert callback.records[0].samples == 8


def test_screens_change_a_nested_batch_too() -> None:
    seen = []

    class Nested(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append(batch)
            return super().training_step(batch, batch_idx)

    def first_half(admitted: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
        return admitted.drop(torch.arange(len(admitted.batch)) >= 4, "")

    data = DataLoader([{"image": BATCHES[0].x, "label": BATCHES[0].y}], batch_size=None)
    fit(Nested(), GuardCallback(Guard(screens=[first_half])), data=data)
    assert torch.equal(seen[0]["image"], BATCHES[0].x[:4])
    assert torch.equal(seen[0]["label"], BATCHES[0].y[:4])
    taken_apart = GuardCallback(Guard(screens=[first_half]), samples=lambda batch: (batch["image"], batch["label"]))
    with pytest.raises(GuardError, match="cannot be put back"):
        fit(Nested(), taken_apart, data=data)


def test_a_batch_without_tensors_needs_samples() -> None:
    class Named(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step((BATCHES[0].x, BATCHES[0].y), batch_idx)

    data = DataLoader(["a name"], batch_size=None)
    with pytest.raises(BatchError, match=r"got str, wanted.*GuardCallback\(samples="):
        fit(Named(), GuardCallback(Guard()), data=data)
    callback = GuardCallback(Guard(), samples=lambda batch: None)
    fit(Named(), callback, data=data)
    assert [r.samples for r in callback.records] == [0]
    with pytest.raises(GuardError, match="a guard with screens and no batch"):
        fit(Named(), GuardCallback(Guard(screens=[lambda a, view: a]), samples=lambda batch: None), data=data)


def test_screens_that_weight_are_told() -> None:
    guard = Guard(screens=[lambda admitted, view: admitted.weight(torch.ones(len(admitted.batch)))])
    with pytest.raises(GuardError, match="screens that weight samples"):
        fit(Module(), GuardCallback(guard))


def test_a_checkpoint_holds_judged_models_and_the_guards_state(tmp_path: Path) -> None:
    saved = lightning.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    module = Module()
    fit(module, GuardCallback(Guard(gates=[Refuses(1)])), saved, enable_checkpointing=True)
    files = sorted(tmp_path.glob("*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    states = [torch.load(file, weights_only=False)["state_dict"] for file in files]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])  # the refused step left no trace
    assert not all(torch.equal(states[1][name], states[2][name]) for name in states[0])
    gate = Refuses()
    again = GuardCallback(Guard(gates=[gate]))
    trainer = lightning.Trainer(
        max_epochs=2,
        callbacks=[again],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Module(), loader(), ckpt_path=files[-1], weights_only=False)
    assert gate.seen == 12
    assert again.guarded.steps == 12


@pytest.mark.parametrize(
    ("strategy", "optimizer", "said"),
    [
        (FSDPStrategy, torch.optim.SGD, 'got FSDPStrategy.*wanted Trainer\\(strategy="ddp"\\)'),
        (ModelParallelStrategy, torch.optim.SGD, "got ModelParallelStrategy"),
        (lambda: DDPStrategy(ddp_comm_state=object()), torch.optim.SGD, "ddp_comm_state"),
        (lambda: SingleDeviceStrategy("cpu"), ZeroRedundancyOptimizer, "ZeroRedundancyOptimizer"),
    ],
)
def test_what_is_sharded_over_processes_is_told(strategy: Any, optimizer: Any, said: str) -> None:
    trainer = SimpleNamespace(strategy=strategy(), optimizers=[optimizer.__new__(optimizer)])
    with pytest.raises(GuardError, match=said):
        GuardCallback(Guard()).on_train_start(trainer, Module())


def test_a_module_without_an_optimizer_is_told() -> None:
    class Without(Module):
        def configure_optimizers(self) -> Any:
            return None

    with pytest.raises(GuardError, match="this module cannot be guarded"):
        fit(Without(), GuardCallback(Guard()))


def test_a_checkpoint_in_the_middle_of_a_step_holds_no_update_that_is_not_judged(tmp_path: Path) -> None:
    whole, seen = [], []

    class Saves:
        name = "saves"

        def __call__(self, change: CandidateUpdate) -> Verdict:
            if change.step == 3:
                whole.append(change.before.params)
                assert any(not torch.equal(change.after.params[name], value) for name, value in whole[0].items())
                seen.append(callback.guarded.in_transaction)
                trainer.save_checkpoint(tmp_path / "signal.ckpt")
            return COMMIT

    callback = GuardCallback(Guard(gates=[Saves()]))
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", enable_checkpointing=False,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, loader())
    assert seen == [True]
    assert not callback.guarded.in_transaction
    saved = torch.load(tmp_path / "signal.ckpt", weights_only=True)
    for name, value in whole[0].items():
        assert torch.equal(saved["state_dict"][name], value)
    shorter = fit(Module(), limit_train_batches=3).optimizers[0].state_dict()["state"]
    for i, entry in saved["optimizer_states"][0]["state"].items():
        assert torch.equal(entry["momentum_buffer"], shorter[i]["momentum_buffer"])
    assert saved["callbacks"][callback.state_key]["steps"] == 3
