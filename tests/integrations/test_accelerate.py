"""`taster.Guarded` in a loop with Accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from taster import COMMIT, CandidateUpdate, Guard, Guarded, Verdict, reject

accelerate = pytest.importorskip("accelerate", reason="needs the extra: pip install taster[transformers]")

BATCHES = [tiny_batch(4, seed=i) for i in range(8)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerate.state.AcceleratorState._reset_state(True)
        yield
        accelerate.state.AcceleratorState._reset_state(True)


def setting(**options: Any) -> tuple[Any, nn.Module, Any, Any, Any]:
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    x, y = torch.cat([b.x for b in BATCHES]), torch.cat([b.y for b in BATCHES])
    return (accelerator, *accelerator.prepare(model, optimizer, DataLoader(TensorDataset(x, y), 4), scheduler))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class Refuses:
    reset_momentum_after = 0

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def __call__(self, update: CandidateUpdate) -> Verdict:
        return reject("asked to") if update.step in self.steps else COMMIT


def update(accelerator: Any, model: nn.Module, optimizer: Any, scheduler: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = cross_entropy(model(x), y)
    accelerator.backward(loss)
    if accelerator.sync_gradients:
        accelerator.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    return loss


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_empty_guard_changes_nothing(precision: str, accumulation: int) -> None:
    options = {"mixed_precision": precision, "gradient_accumulation_steps": accumulation}
    accelerator, model, optimizer, loader, scheduler = setting(**options)
    for x, y in loader:
        with accelerator.accumulate(model):
            update(accelerator, model, optimizer, scheduler, x, y)
    plain = weights(model)
    accelerator, model, optimizer, loader, scheduler = setting(**options)
    guarded = Guarded(model, optimizer, Guard())
    norms = []
    for x, y in loader:
        with guarded.step(x, y) as step, accelerator.accumulate(model):
            step.loss = update(accelerator, model, optimizer, scheduler, x, y)
        norms.append(step.record.gradient_norm_before)
    assert_same(plain, weights(model))
    # Only where gradients were synchronized an update was made.
    assert [norm is not None for norm in norms] == [(i + 1) % accumulation == 0 for i in range(8)]
    assert all(norm is None or norm <= 0.5 + 1e-6 for norm in norms)


def test_a_refused_update_is_undone_whichever_way_it_is_put_together() -> None:
    accelerator, model, optimizer, loader, scheduler = setting(gradient_accumulation_steps=2)
    guarded = Guarded(model, optimizer, Guard(gates=[Refuses(1)]))
    batches = list(loader)
    states = []
    for first in range(0, 8, 2):
        with guarded.step() as step:  # one step for the two batches of an update
            for x, y in batches[first : first + 2]:
                with accelerator.accumulate(model):
                    update(accelerator, model, optimizer, scheduler, x, y)
        states.append((step.refused, weights(model)))
    assert [refused for refused, _ in states] == [False, True, False, False]
    assert_same(states[0][1], states[1][1])
    assert not torch.equal(states[1][1]["fc.weight"], states[2][1]["fc.weight"])


def test_a_refused_micro_batch_takes_its_gradient_with_it() -> None:
    accelerator, model, optimizer, loader, _ = setting(gradient_accumulation_steps=2)
    guarded = Guarded(model, optimizer, Guard())
    x, y = next(iter(loader))
    before = weights(model)
    for factor in (float("nan"), 1.0):
        with guarded.step(x, y) as step, accelerator.accumulate(model):
            step.loss = cross_entropy(model(x), y) * factor
            accelerator.backward(step.loss)
            optimizer.step()
            optimizer.zero_grad()
        if step.refused:
            # Not yet due to be cleared by Accelerate, and half of an update nevertheless.
            assert all(p.grad is None for p in model.parameters())
            assert_same(before, weights(model))
    assert not step.refused
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert not torch.equal(before["fc.weight"], model.fc.weight)


def test_batches_between_updates_do_not_end_a_row_of_refusals() -> None:
    """Else the momentum that has updates refused would never be reset, where updates take several steps each."""
    accelerator, model, optimizer, loader, scheduler = setting(gradient_accumulation_steps=2)
    gate = Refuses(3, 5)
    gate.reset_momentum_after = 2
    guarded = Guarded(model, optimizer, Guard(gates=[gate]))
    momenta = []
    for x, y in list(loader)[:6]:
        with guarded.step(x, y) as step, accelerator.accumulate(model):
            update(accelerator, model, optimizer, scheduler, x, y)
        momenta.append([float(s["momentum_buffer"].abs().sum()) for s in optimizer.state.values()])
    assert step.record.attempts == 1
    assert all(momenta[3])
    assert not any(momenta[5])


def test_an_exception_undoes_what_was_accumulated() -> None:
    accelerator, model, optimizer, loader, _ = setting(gradient_accumulation_steps=2)
    guarded = Guarded(model, optimizer, Guard())
    before = weights(model)
    x, y = next(iter(loader))

    def interrupted() -> None:
        with guarded.step(), accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(x), y))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_same(before, weights(model))
    assert all(p.grad is None for p in model.parameters())


def test_a_state_goes_on_with_the_same_bits() -> None:
    def run(steps: range, state: Any = None) -> tuple[Any, Any]:
        accelerator, model, optimizer, loader, scheduler = setting()
        guarded = Guarded(model, optimizer, Guard(gates=[Refuses(2, 5)]), schedulers=[scheduler])
        if state is not None:
            guarded.load_state_dict(state)
        for i, (x, y) in enumerate(loader):
            if i in steps:
                with guarded.step(x, y):
                    update(accelerator, model, optimizer, scheduler, x, y)
        return guarded, {name: value for name, value in guarded.state_dict().items() if name != "model"}

    whole, _ = run(range(8))
    half, _ = run(range(4))
    resumed, _ = run(range(4, 8), half.state_dict())
    assert_same(weights(whole.model), weights(resumed.model))
    assert whole.counters == resumed.counters
    assert whole.counters["rejected"] == 2


def test_a_compiled_model() -> None:
    plugin = accelerate.utils.TorchDynamoPlugin(backend="eager")
    accelerator, model, optimizer, loader, scheduler = setting(dynamo_plugin=plugin)
    seen = []

    def gate(change: CandidateUpdate) -> Verdict:
        seen.append(float(change.after.loss(*next(iter(loader)))))
        return reject("asked to") if change.step == 1 else COMMIT

    guarded = Guarded(model, optimizer, Guard(gates=[gate]), loss=cross_entropy)
    states = []
    for x, y in list(loader)[:3]:
        with guarded.step(x, y):
            update(accelerator, model, optimizer, scheduler, x, y)
        states.append(weights(model))
    assert_same(states[0], states[1])
    assert len(set(seen)) == 3
