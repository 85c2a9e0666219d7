"""The guard around Lightning's loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch, tiny_learner
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from taster import Batch, CandidateUpdate, Guard, ScreenedBatch, Verdict, reject
from taster.core.types import COMMIT
from taster.errors import BatchError, GuardError

lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra: pip install taster[lightning]")
from taster.integrations.lightning import GuardCallback  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # Lightning's advice on data loaders and loggers
        warnings.simplefilter("ignore")
        yield


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = TinyNet()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch.values() if isinstance(batch, dict) else batch
        return cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}}


BATCHES = [tiny_batch(8, seed=i) for i in range(6)]


def loader() -> DataLoader[Any]:
    x, y = torch.cat([b.x for b in BATCHES]), torch.cat([b.y for b in BATCHES])
    return DataLoader(TensorDataset(x, y), batch_size=8)


def fit(module: Any, *callbacks: Any, data: Any = None, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=list(callbacks), **{"enable_checkpointing": False, **quiet, **options}
    )
    trainer.fit(module, loader() if data is None else data)
    return trainer


class Refuses:
    """A gate that refuses some steps."""

    name = "refuses"

    def __init__(self, *steps: int) -> None:
        self.steps, self.seen = steps, 0

    def __call__(self, change: CandidateUpdate) -> Verdict:
        return reject("asked to") if change.step in self.steps else COMMIT

    def observe(self, record: Any, view: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


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


def test_a_batch_of_another_form_is_told_or_taken_apart() -> None:
    x, y = BATCHES[0].x, BATCHES[0].y
    data = DataLoader([{"image": x, "label": y}], batch_size=None)
    with pytest.raises(BatchError, match="is a dict, wanted two parts"):
        fit(Module(), GuardCallback(Guard()), data=data)
    callback = GuardCallback(Guard(), samples=lambda batch: (batch["image"], batch["label"]))
    fit(Module(), callback, data=data)
    assert callback.guarded.counters["committed"] == 1


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


class Two(Module):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net.conv.parameters(), 0.1), torch.optim.SGD(self.net.fc.parameters(), 0.1)]


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        (Manual, {}, "manual optimization"),
        (Module, {"accumulate_grad_batches": 2}, "accumulate_grad_batches, wanted 1"),
    ],
)
def test_what_cannot_be_guarded_is_told(module: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(GuardError, match=said):
        fit(module(), GuardCallback(Guard()), **options)


def test_several_optimizers_are_refused_by_name() -> None:
    class Both(Two):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False  # Lightning itself wants it for two

    with pytest.raises(GuardError, match="2 optimizers, wanted one"):
        fit(Both(), GuardCallback(Guard()))


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
