"""The guard around every loop that Lightning has: a refused step leaves no trace, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from taster import Batch, CandidateUpdate, Guard, ScreenedBatch, Verdict
from taster.core.verdict import COMMIT, rewind
from taster.errors import GuardError

lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra: pip install taster[lightning]")
from lightning.pytorch.callbacks import (  # noqa: E402
    BackboneFinetuning,
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402
from tests.core.zoo import same  # noqa: E402
from tests.integrations.lightning_modules import (  # noqa: E402
    BATCHES,
    Gan,
    Module,
    Refuses,
    fit,
    loader,
    trainer_of,
    weights,
    whole,
)

from taster.integrations.lightning import GuardCallback  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # Lightning's advice on data loaders and loggers
        warnings.simplefilter("ignore")
        yield


def verdicts(callback: GuardCallback) -> list[bool]:
    return [record.verdict.committed for record in callback.records]


def without(*steps: int) -> Any:
    return loader([batch for i, batch in enumerate(BATCHES) if i not in steps])


def test_manual_optimization_with_two_optimizers() -> None:
    plain, guarded, refusing, shorter = Gan(), Gan(), Gan(), Gan()
    expected = whole(plain, fit(plain))
    empty = GuardCallback(Guard())
    assert same(whole(guarded, fit(guarded, empty)), expected)
    assert empty.records[0].gradient_norm_before is not None
    assert all(record.loss is not None for record in empty.records)
    callback = GuardCallback(Guard(gates=[Refuses(1, 2)]))
    trainer = fit(refusing, callback)
    assert verdicts(callback) == [True, False, False, True, True, True]
    other = fit(shorter, data=without(1, 2))
    # Schedulers that the module steps itself go back with the rest.
    assert same(whole(refusing, trainer), whole(shorter, other))
    schedulers = [[c.scheduler.state_dict() for c in t.lr_scheduler_configs] for t in (trainer, other)]
    assert same(*schedulers)
    assert trainer.global_step == 12  # refused steps count


def test_accumulated_batches_are_judged_once() -> None:
    module, shorter, refused = Module(), Module(), []
    callback = GuardCallback(Guard(gates=[Refuses(1)]), on_refusal=lambda record, batch: refused.append(batch))
    trainer = fit(module, callback, accumulate_grad_batches=2)
    assert verdicts(callback) == [True, False, True]
    assert [record.samples for record in callback.records] == [16, 16, 16]
    assert [torch.equal(batch.x, BATCHES[i].x) for batch, i in zip(refused, (2, 3), strict=True)] == [True, True]
    other = fit(shorter, data=without(2, 3), accumulate_grad_batches=2)
    assert same(whole(module, trainer), whole(shorter, other))


def test_an_epochs_end_judges_what_was_accumulated_until_then() -> None:
    plain, guarded, refusing, shorter = Module(), Module(), Module(), Module()
    options: dict[str, Any] = {"data": loader(BATCHES[:5]), "accumulate_grad_batches": 3}
    callback = GuardCallback(Guard())
    assert same(whole(guarded, fit(guarded, callback, **options)), whole(plain, fit(plain, **options)))
    assert [record.samples for record in callback.records] == [24, 16]
    trainer = fit(refusing, GuardCallback(Guard(gates=[Refuses(1)])), **options)
    other = fit(shorter, data=loader(BATCHES[:3]), accumulate_grad_batches=3)
    assert same(whole(refusing, trainer), whole(shorter, other))


def test_the_loss_of_accumulated_batches_is_their_mean() -> None:
    losses = []

    class Says(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            losses.append(float(loss))
            return loss

    callback = GuardCallback(Guard())
    fit(Says(), callback, accumulate_grad_batches=2)
    assert [record.loss for record in callback.records] == pytest.approx(
        [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    )


def test_screens_see_every_batch_that_is_accumulated() -> None:
    sizes = []

    class Says(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            sizes.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    def screen(admitted: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
        if torch.equal(admitted.batch.x, BATCHES[3].x):
            return admitted.drop(torch.ones(8, dtype=torch.bool), "all bad")
        return admitted.drop(torch.arange(8) >= 6, "")

    callback = GuardCallback(Guard(screens=[screen]))
    fit(Says(), callback, accumulate_grad_batches=2)
    assert sizes == [6, 6, 6, 8, 6, 6]
    assert [record.dropped for record in callback.records] == [4, 10, 4]
    assert [record.verdict.reason for record in callback.records] == ["", "all bad", ""]


class EverySecond(Module):
    """Gradients accumulated by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
        if batch_idx % 2 == 1:
            self.optimizers().step()
            self.optimizers().zero_grad()


def test_manual_optimization_is_judged_where_it_updates() -> None:
    module, shorter = EverySecond(), EverySecond()
    callback = GuardCallback(Guard(gates=[Refuses(1)]))
    trainer = fit(module, callback)
    assert [record.samples for record in callback.records] == [16, 16, 16]
    assert same(whole(module, trainer), whole(shorter, fit(shorter, data=without(2, 3))))


def test_what_manual_optimization_has_not_used_at_an_epochs_end_is_judged_too() -> None:
    module, plain = EverySecond(), EverySecond()
    callback = GuardCallback(Guard())
    trainer = fit(module, callback, data=loader(BATCHES[:3]), max_epochs=2)
    assert [record.samples for record in callback.records] == [16, 8, 16, 8]
    assert same(whole(module, trainer), whole(plain, fit(plain, data=loader(BATCHES[:3]), max_epochs=2)))


def test_a_module_that_draws_its_batches_itself() -> None:
    class Draws(Module):
        def training_step(self, dataloader_iter: Any) -> torch.Tensor:  # type: ignore[override]
            return super().training_step(next(dataloader_iter)[0], 0)

    module, plain = Draws(), Module()
    callback = GuardCallback(Guard())
    fit(module, callback)
    fit(plain)
    assert same(weights(module), weights(plain))
    assert [record.samples for record in callback.records] == [0] * 6
    with pytest.raises(GuardError, match="no batch for them"):
        fit(Draws(), GuardCallback(Guard(screens=[lambda admitted, view: admitted])))


def float16() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=2))


def scale_of(trainer: Any) -> Any:
    return trainer.precision_plugin.scaler.state_dict()


def test_float16_with_a_scaler_and_clipping() -> None:
    plain, guarded, refusing, shorter = Module(), Module(), Module(), Module()
    options: dict[str, Any] = {"gradient_clip_val": 0.1}
    expected = fit(plain, plugins=[float16()], **options)
    callback = GuardCallback(Guard())
    found = fit(guarded, callback, plugins=[float16()], **options)
    assert same(whole(guarded, found), whole(plain, expected))
    assert scale_of(found) == scale_of(expected)
    assert scale_of(found)["scale"] > 2.0**4
    assert all(record.gradient_norm_before < 0.11 for record in callback.records)
    assert all(record.loss is not None for record in callback.records)
    trainer = fit(refusing, GuardCallback(Guard(gates=[Refuses(1, 4)])), plugins=[float16()], **options)
    other = fit(shorter, data=without(1, 4), plugins=[float16()], **options)
    assert same(whole(refusing, trainer), whole(shorter, other))
    assert scale_of(trainer) == scale_of(other)


def test_a_step_that_the_scaler_leaves_out() -> None:
    plain, guarded = Module(), Module()
    far = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**40)) for _ in range(2)]
    expected = fit(plain, plugins=[far[0]])
    found = fit(guarded, GuardCallback(Guard()), plugins=[far[1]])
    # Refused as in `taster.Learner`: batch norm's statistics of a pass that the scaler leaves out are left out, too.
    start = Module()
    assert same(dict(guarded.named_buffers()), dict(start.named_buffers()))
    assert same(dict(guarded.named_parameters()), dict(plain.named_parameters()))
    assert scale_of(found) == scale_of(expected)
    assert scale_of(found)["scale"] < 2.0**40


def test_bfloat16() -> None:
    plain, guarded, shorter, refusing = Module(), Module(), Module(), Module()
    fit(plain, precision="bf16-mixed")
    fit(guarded, GuardCallback(Guard()), precision="bf16-mixed")
    assert same(weights(guarded), weights(plain))
    trainer = fit(refusing, GuardCallback(Guard(gates=[Refuses(2)])), precision="bf16-mixed")
    assert same(whole(refusing, trainer), whole(shorter, fit(shorter, data=without(2), precision="bf16-mixed")))


def test_averages_of_weights_over_epochs() -> None:
    """The batch norm's pass at the end included: there each batch is a step."""
    plain, guarded = Module(), Module()
    fit(plain, StochasticWeightAveraging(0.05, swa_epoch_start=1), max_epochs=3)
    callback = GuardCallback(Guard())
    fit(guarded, StochasticWeightAveraging(0.05, swa_epoch_start=1), callback, max_epochs=3)
    assert same(weights(guarded), weights(plain))
    assert len(callback.records) == 24
    refusing = Module()
    callback = GuardCallback(Guard(gates=[Refuses(4, 13, 20)]))
    fit(refusing, callback, StochasticWeightAveraging(0.05, swa_epoch_start=1), max_epochs=3)
    assert [i for i, kept in enumerate(verdicts(callback)) if not kept] == [4, 13, 20]
    assert int(refusing.net.bn.num_batches_tracked) == 5  # of six in the last pass one was refused


class Backbone(Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.net.conv

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), 0.01)


def test_layers_that_are_thawed_late() -> None:
    def thaw() -> Any:
        return BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)

    plain, guarded, refusing = Backbone(), Backbone(), Backbone()
    frozen = weights(plain)["backbone.weight"]
    expected = fit(plain, thaw(), max_epochs=2)
    for callbacks in ([thaw(), GuardCallback(Guard())], [GuardCallback(Guard()), thaw()]):
        guarded = Backbone()
        found = fit(guarded, *callbacks, max_epochs=2)
        assert same(whole(guarded, found), whole(plain, expected))
    assert not torch.equal(weights(guarded)["backbone.weight"], frozen)
    assert len(found.optimizers[0].param_groups) == 2
    seen = {}

    class Watches(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            seen["before"] = whole(module, trainer)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen[(trainer.current_epoch, batch_idx)] = same(whole(module, trainer), seen["before"])

    fit(refusing, Watches(), thaw(), GuardCallback(Guard(gates=[Refuses(2, 6, 8)])), max_epochs=2)
    del seen["before"]
    assert [place for place, unchanged in seen.items() if unchanged] == [(0, 2), (1, 0), (1, 2)]


def test_schedulers_go_on_also_one_that_is_made_late() -> None:
    class Stepped(Module):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Late(Callback):
        rates: list[float]

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.rates = []

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                late = torch.optim.lr_scheduler.LinearLR(trainer.optimizers[0], 0.5, total_iters=4)
                trainer.lr_scheduler_configs[0].scheduler = late

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    plain, refusing = Late(), Late()
    fit(Stepped(), plain, max_epochs=2)
    callback = GuardCallback(Guard(gates=[Refuses(1, 2, 7)]))
    fit(Stepped(), refusing, callback, max_epochs=2)
    assert refusing.rates == plain.rates
    assert len(set(plain.rates)) > 8
    assert verdicts(callback).count(False) == 3


def test_a_moving_average_never_sees_what_is_refused() -> None:
    found = []
    for first in (True, False):
        average = EMAWeightAveraging(decay=0.5)
        guard = GuardCallback(Guard(gates=[Refuses(2)]))
        seen: list[dict[str, torch.Tensor]] = []

        class Watches(Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, *args: Any, seen: Any = seen) -> None:
                seen.append(weights(module))

        module = Module()
        fit(module, *([average, Watches(), guard] if first else [guard, average, Watches()]))
        assert same(seen[2], seen[1])
        assert not same(seen[3], seen[2])
        found.append(weights(module))
    assert same(*found)


class Rewinds:
    """A gate that goes back three steps in one."""

    name = "rewinds"
    max_rewind = 4

    def __call__(self, change: CandidateUpdate) -> Verdict:
        return rewind(3, "drifted") if change.step == 4 else COMMIT


def test_a_rewind_takes_a_moving_average_with_it() -> None:
    average, seen = EMAWeightAveraging(decay=0.5), []

    class Watches(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            seen.append((weights(module), weights(average._average_model)))  # type: ignore[arg-type]

    class Judged(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            if trainer.global_step == 5:
                seen.append((weights(module), weights(average._average_model)))  # type: ignore[arg-type]

    callback = GuardCallback(Guard(gates=[Rewinds()]))
    fit(Module(), Watches(), Judged(), callback, average)
    back = callback.records[4].verdict.steps
    assert back >= 3
    assert same(seen[5], seen[4 - back])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", [Module, Gan])
def test_an_exception_leaves_what_was_before_the_step(kind: Any, error: Any) -> None:
    class Fails(kind):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            found = super().training_step(batch, batch_idx)
            if batch_idx == 4:
                raise error("in the middle")
            return found

    module, shorter = Fails(), kind()
    callback = GuardCallback(Guard())
    trainer = trainer_of(callback, accumulate_grad_batches=2 if kind is Module else 1)
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        trainer.fit(module, loader())
    other = fit(shorter, data=loader(BATCHES[:4]), accumulate_grad_batches=2 if kind is Module else 1)
    assert same(whole(module, trainer), whole(shorter, other))
    assert not callback.guarded.in_transaction
    epoch = trainer.fit_loop.epoch_loop
    assert not any("run" in vars(loop) for loop in (epoch, epoch.automatic_optimization, epoch.manual_optimization))


def test_a_stop_before_the_gradients_are_used_leaves_what_was_before() -> None:
    class Stops(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.should_stop = batch_idx == 2

    module, shorter = Module(), Module()
    callback = GuardCallback(Guard())
    trainer = fit(module, Stops(), callback, accumulate_grad_batches=2, max_epochs=3)
    assert len(callback.records) == 1
    assert same(weights(module), weights_after(shorter, 2))
    assert not callback.guarded.in_transaction
    assert all(p.grad is None for p in module.parameters())
    assert trainer.global_step == 1


def weights_after(module: Module, batches: int) -> dict[str, torch.Tensor]:
    fit(module, data=loader(BATCHES[:batches]), accumulate_grad_batches=2)
    return weights(module)


def test_a_failing_gate_and_a_failing_alarm() -> None:
    def fails(change: CandidateUpdate) -> Verdict:
        if change.step == 2:
            raise ValueError("no answer")
        return COMMIT

    module, shorter = Gan(), Gan()
    trainer = trainer_of(GuardCallback(Guard(gates=[fails])))
    with pytest.raises(ValueError, match="no answer"):
        trainer.fit(module, loader())
    assert same(whole(module, trainer), whole(shorter, fit(shorter, data=loader(BATCHES[:2]))))

    def alarm(record: Any, batch: Any) -> None:
        raise ValueError("nobody there")

    module = Gan()
    trainer = trainer_of(GuardCallback(Guard(gates=[Refuses(2)]), on_refusal=alarm))
    with pytest.raises(ValueError, match="nobody there"):
        trainer.fit(module, loader())
    shorter = Gan()
    other = fit(shorter, data=loader(BATCHES[:2]))
    assert same(whole(module, trainer), whole(shorter, other))
    assert same(*([c.scheduler.state_dict() for c in t.lr_scheduler_configs] for t in (trainer, other)))


@pytest.mark.parametrize(("kind", "accumulated"), [(Module, 1), (Module, 2), (Gan, 1)])
def test_training_resumes_with_the_same_bits(kind: Any, accumulated: int, tmp_path: Path) -> None:
    def run(epochs: int, *, resume: Path | None = None) -> tuple[Any, Any, GuardCallback]:
        module, callback = kind(), GuardCallback(Guard(gates=[Refuses(2, 4, 7)]))
        plugins = [float16()] if kind is Module else []
        trainer = trainer_of(
            callback, max_epochs=epochs, accumulate_grad_batches=accumulated, plugins=plugins, gradient_clip_val=None
        )
        trainer.fit(module, loader(), ckpt_path=resume)
        return module, trainer, callback

    whole_module, whole_trainer, whole_callback = run(2)
    _, trainer, _ = run(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    module, resumed, callback = run(2, resume=tmp_path / "half.ckpt")
    assert same(whole(module, resumed), whole(whole_module, whole_trainer))
    assert callback.guarded.steps == whole_callback.guarded.steps
    assert dict(callback.guarded.counters) == dict(whole_callback.guarded.counters)
    assert verdicts(callback) == verdicts(whole_callback)[6 // accumulated :]


def test_a_checkpoint_amid_accumulated_batches_is_of_the_state_before_them(tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "amid.ckpt")

    class Frozen(Module):
        def __init__(self) -> None:
            super().__init__()
            self.net.fc.bias.requires_grad_(False)

    for average in (None, EMAWeightAveraging()):
        module, shorter = Frozen(), Frozen()
        callbacks = [Saves(), *([] if average is None else [average]), GuardCallback(Guard())]
        fit(module, *callbacks, accumulate_grad_batches=2, plugins=[float16()])
        other = fit(shorter, data=loader(BATCHES[:2]), accumulate_grad_batches=2, plugins=[float16()])
        saved = torch.load(tmp_path / "amid.ckpt", weights_only=True)
        assert same(saved["state_dict" if average is None else "current_model_state"], weights(shorter))
        assert same(saved["optimizer_states"], whole(shorter, other)["optimizers"])
        assert saved["MixedPrecision"] == scale_of(other)


def test_a_checkpoint_amid_manual_optimization_has_the_schedulers_of_before(tmp_path: Path) -> None:
    def gate(change: CandidateUpdate) -> Verdict:
        if change.step == 2:
            trainer.save_checkpoint(tmp_path / "amid.ckpt")
        return COMMIT

    trainer = trainer_of(GuardCallback(Guard(gates=[gate])))
    trainer.fit(Gan(), loader())
    shorter = Gan()
    other = fit(shorter, data=loader(BATCHES[:2]))
    saved = torch.load(tmp_path / "amid.ckpt", weights_only=True)
    assert same(saved["state_dict"], weights(shorter))
    assert same(saved["optimizer_states"], whole(shorter, other)["optimizers"])
    assert same(saved["lr_schedulers"], [c.scheduler.state_dict() for c in other.lr_scheduler_configs])


def test_a_checkpoint_amid_a_step_has_the_scaler_of_before(tmp_path: Path) -> None:
    def gate(change: CandidateUpdate) -> Verdict:
        if change.step == 3:
            trainer.save_checkpoint(tmp_path / "amid.ckpt")
            scales.append(scale_of(trainer))
        return COMMIT

    scales: list[Any] = []
    trainer = trainer_of(GuardCallback(Guard(gates=[gate])), plugins=[float16()])
    trainer.fit(Module(), loader())
    saved = torch.load(tmp_path / "amid.ckpt", weights_only=True)["MixedPrecision"]
    assert saved == scale_of(fit(Module(), data=loader(BATCHES[:3]), plugins=[float16()]))
    assert saved != scales[0]


def test_an_optimizer_that_a_callback_makes_again() -> None:
    class Anew(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.optimizers = [torch.optim.Adam(module.parameters(), 0.01)]

    plain, guarded = Module(), Module()
    callback = GuardCallback(Guard(gates=[Refuses()]))
    expected = fit(plain, Anew(), max_epochs=2)
    assert same(whole(guarded, fit(guarded, Anew(), callback, max_epochs=2)), whole(plain, expected))
    assert isinstance(callback.guarded.optimizer, torch.optim.Adam)
    assert all(record.gradient_norm_before is not None for record in callback.records)


def test_monitors_and_checkpoints_see_judged_steps(tmp_path: Path) -> None:
    class Logs(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    saved = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=-1, filename="{epoch}")
    module = Logs()
    trainer = trainer_of(
        LearningRateMonitor(logging_interval="step"), saved, GuardCallback(Guard(gates=[Refuses(11)])), max_epochs=2,
        enable_checkpointing=True, logger=lightning.loggers.CSVLogger(tmp_path), accumulate_grad_batches=1,
    )  # fmt: skip
    trainer.fit(module, loader(), loader(BATCHES[:1]))
    shorter = Logs()
    fit(shorter, data=loader([*BATCHES, *BATCHES[:5]]))
    assert len(list(tmp_path.glob("*.ckpt"))) == 2
    last = torch.load(tmp_path / "epoch=1.ckpt", weights_only=False)["state_dict"]
    assert same(dict(last), weights(shorter))


def test_a_second_fit_goes_on_counting() -> None:
    module, callback = Module(), GuardCallback(Guard(gates=[Refuses(7)]))
    fit(module, callback)
    fit(module, callback)
    assert callback.guarded.steps == 12
    assert verdicts(callback) == [True, False, True, True, True, True]
