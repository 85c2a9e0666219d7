"""A guard around steps that the user's own code makes: nothing is changed by it, and everything can be undone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.core.guarded_zoo import Counts, RefusesAt, all_of, batch, make_step, network, refusing
from tests.core.zoo import OPTIMIZERS, BrokenError, same
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import taster
from taster import Batch, Guard, Guarded, SnapshotBuffer, rewind
from taster.defences import clipping, retry_low_score_half
from taster.errors import (
    BatchError,
    CheckpointError,
    GuardError,
    LossError,
    ModelError,
    SnapshotError,
    TransactionError,
)


def simple(guard: Guard | None = None, optimizer: str = "nesterov", seed: int = 0, **options: Any) -> Guarded:
    model = network(seed)
    return Guarded(model, OPTIMIZERS[optimizer](list(model.parameters())), guard, **options)


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    given = batch(seed)
    cross_entropy(model(given.x), given.y).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw foreach", "adam fused", "rprop", "adafactor"])
def test_a_step_that_is_let_through_is_the_plain_one(optimizer: str) -> None:
    guarded = simple(refusing(), optimizer)
    model = network()
    twin = OPTIMIZERS[optimizer](list(model.parameters()))
    for i in range(6):
        step = make_step(guarded, i)
        plain(model, twin, i)
        assert not step.refused
        assert step.record.samples == 6
        assert step.record.loss == pytest.approx(float(step.loss.detach()))
        assert step.record.gradient_norm_before == step.record.gradient_norm_after > 0
    assert same(dict(guarded.model.state_dict()), dict(model.state_dict()))
    assert same(guarded.optimizer.state_dict(), twin.state_dict())
    assert dict(guarded.counters)["committed"] == 6


def test_without_a_batch_and_a_loss_it_is_the_same() -> None:
    guarded, model = simple(refusing()), network()
    twin = OPTIMIZERS["nesterov"](list(model.parameters()))
    for i in range(4):
        with guarded.step() as step:
            plain(guarded.model, guarded.optimizer, i)
        plain(model, twin, i)
        assert step.batch is None
        assert step.record is not None
        assert step.record.loss is None
        assert step.record.samples == 0
    assert same(dict(guarded.model.state_dict()), dict(model.state_dict()))


def averaged(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam amsgrad", "asgd", "rprop"])
@pytest.mark.parametrize("ends", ["refused", "raised"])
def test_a_step_that_is_undone_leaves_no_bit_changed(optimizer: str, ends: str) -> None:
    model = network()
    ema, counts = averaged(model), Counts()
    refused = refusing(2) if ends == "refused" else Guard()
    guarded = Guarded(model, OPTIMIZERS[optimizer](list(model.parameters())), refused, also=[ema, counts])

    def block(seed: int) -> None:
        plain(model, guarded.optimizer, seed)
        ema.update_parameters(model)
        counts.update(torch.ones(2))
        model.train(mode=seed != 2)
        if ends == "raised" and seed == 2:
            raise BrokenError

    for i in range(2):
        with guarded.step():
            block(i)
    before = all_of(guarded, [ema, counts])
    if ends == "raised":
        with pytest.raises(BrokenError), guarded.step() as step:
            block(2)
        assert step.record is None
        assert guarded.steps == 2
    else:
        with guarded.step() as step:
            block(2)
        assert step.refused
        assert guarded.steps == 3
    assert same(all_of(guarded, [ema, counts]), before)
    assert not guarded.in_transaction
    with guarded.step():
        block(3)
    assert counts.calls == 3
    assert int(ema.n_averaged) == 3
    assert not same(all_of(guarded, [ema, counts]), before)


def test_it_is_undone_wherever_the_block_raises() -> None:
    guarded = simple()
    make_step(guarded, 0)
    before = all_of(guarded)
    parts: list[Callable[[], Any]] = [
        lambda: guarded.model(batch(1).x),
        lambda: cross_entropy(guarded.model(batch(1).x), batch(1).y).backward(),
        guarded.optimizer.step,
        guarded.optimizer.zero_grad,
        lambda: guarded.model[0].weight.data.fill_(3.0),
        lambda: guarded.optimizer.param_groups[0].update(lr=7.0),
    ]
    for last in range(len(parts) + 1):

        def block(last: int = last) -> None:
            for part in parts[:last]:
                part()
            raise BrokenError

        with pytest.raises(BrokenError), guarded.step():
            block()
        assert same(all_of(guarded), before), last


def test_leaving_the_block_early_is_a_step() -> None:
    guarded = simple(refusing(1))

    def one(seed: int) -> str:
        with guarded.step():
            plain(guarded.model, guarded.optimizer, seed)
            return "left"

    assert one(0) == "left"
    before = all_of(guarded)
    for i in (1, 2):
        with guarded.step():
            plain(guarded.model, guarded.optimizer, i)
            continue
        raise AssertionError
    assert guarded.counters["committed"] == 2
    assert guarded.counters["rejected"] == 1
    assert not same(all_of(guarded), before)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_closure_is_called_as_ever_and_undone(line_search: str | None) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network()
        return model, torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, line_search_fn=line_search)

    def closure(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> Callable[[], torch.Tensor]:
        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(batch(seed).x), batch(seed).y)
            loss.backward()
            return loss

        return evaluate

    model, optimizer = made()
    twin, other = made()
    guarded = Guarded(model, optimizer, refusing(2))
    for i in range(4):
        before = all_of(guarded)
        with guarded.step() as step:
            first = optimizer.step(closure(model, optimizer, i))
        assert step.record is not None
        assert step.record.loss == pytest.approx(float(first.detach()))
        if i == 2:
            assert same(all_of(guarded)["params"], before["params"])
            assert same(all_of(guarded)["optimizers"], before["optimizers"])
        else:
            other.step(closure(twin, other, i))
    assert same(dict(model.state_dict()), dict(twin.state_dict()))


def test_a_closure_of_sgd_by_keyword_is_clipped() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    guarded = Guarded(model, optimizer, clipping(max_norm=0.01))

    def closure() -> torch.Tensor:
        loss = cross_entropy(model(batch(0).x), batch(0).y)
        loss.backward()
        return loss

    before = [p.detach().clone() for p in model.parameters()]
    with guarded.step() as step:
        optimizer.step(closure=closure)
    moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)
    assert step.record is not None
    assert step.record.gradient_norm_after == pytest.approx(0.01, rel=1e-3)


def test_transforms_change_what_the_optimizer_sees_and_nothing_before() -> None:
    seen: list[list[torch.Tensor]] = []
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append([p.grad.clone() for p in model.parameters()]))
    guarded = Guarded(model, optimizer, clipping(max_norm=0.05))
    with guarded.step():
        cross_entropy(model(batch(0).x), batch(0).y).backward()
        own = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
    norms = [float(torch.cat([g.flatten() for g in grads]).norm()) for grads in (own, seen[0])]
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.05, rel=1e-4)


def test_gradients_of_several_backward_passes_are_one_update() -> None:
    guarded, model = simple(refusing()), network()
    twin = OPTIMIZERS["nesterov"](list(model.parameters()))
    for start in (0, 3):
        with guarded.step() as step:
            for i in range(start, start + 3):
                (cross_entropy(guarded.model(batch(i).x), batch(i).y) / 3).backward()
            guarded.optimizer.step()
            guarded.optimizer.zero_grad()
        for i in range(start, start + 3):
            (cross_entropy(model(batch(i).x), batch(i).y) / 3).backward()
        twin.step()
        twin.zero_grad()
        assert not step.refused
    assert same(dict(guarded.model.state_dict()), dict(model.state_dict()))


def test_a_refused_step_leaves_no_gradient() -> None:
    guarded = simple(refusing(0))
    with guarded.step():
        cross_entropy(guarded.model(batch(0).x), batch(0).y).backward()
        guarded.optimizer.step()
    assert all(p.grad is None for p in guarded.model.parameters())


def screen(admitted: Any, view: Any) -> Any:
    """Takes out the samples with an even number in front."""
    first = admitted.batch.x if isinstance(admitted.batch.x, torch.Tensor) else admitted.batch.x["values"]
    return admitted.drop(first[:, 0] % 2 == 0, "even")


@pytest.mark.parametrize("form", ["tensors", "batch", "dictionary", "pair in a list"])
def test_the_block_gets_what_the_screens_have_left(form: str) -> None:
    values = torch.arange(6.0)[:, None].repeat(1, 8)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    own_screen = screen
    if form == "pair in a list":

        def own_screen(admitted: Any, view: Any) -> Any:
            return admitted.drop(admitted.batch.x[0][:, 0] % 2 == 0, "even")

    guarded = simple(Guard(screens=[own_screen]))
    given: Any = {"batch": Batch(values, y), "dictionary": {"values": values, "labels": y, "name": "a"}}.get(form)
    given = [values, y] if form == "pair in a list" else given
    with guarded.step(values, y) if form == "tensors" else guarded.step(given) as step:
        left: Any = step.batch
        if form == "dictionary":
            assert left["name"] == "a"
            x, labels = left["values"], left["labels"]
        else:
            assert isinstance(left, list if form == "pair in a list" else Batch)
            x, labels = left if form == "pair in a list" else (left.x, left.y)
        assert x[:, 0].tolist() == [1, 3, 5]
        assert labels.tolist() == [1, 0, 2]
        cross_entropy(guarded.model(x), labels).backward()
        guarded.optimizer.step()
    assert step.record is not None
    assert step.record.dropped == 3
    assert step.record.samples == 6
    assert not step.refused


def test_a_batch_that_is_dropped_as_a_whole_is_refused_whatever_the_block_does() -> None:
    guarded = simple(Guard(screens=[lambda admitted, view: admitted.drop(torch.ones(6, dtype=torch.bool), "bad")]))
    before = all_of(guarded)
    step = make_step(guarded, 0)
    assert step.refused
    assert step.record.verdict.reason == "bad"
    assert step.record.attempts == 0
    assert len(step.batch) == 6
    assert same(all_of(guarded), before)


def test_the_block_may_ask_whether_the_batch_was_dropped() -> None:
    guarded = simple(Guard(screens=[lambda admitted, view: admitted.drop(torch.ones(6, dtype=torch.bool), "bad")]))
    with guarded.step(batch(0)) as step:
        if not step.refused:
            raise AssertionError
    assert step.refused


def test_screens_want_the_batch() -> None:
    guarded = simple(Guard(screens=[screen]))
    with pytest.raises(GuardError, match=r"wanted step\(batch\)"), guarded.step():
        raise AssertionError
    with pytest.raises(BatchError, match=r"wanted a torch\.Tensor"):
        guarded.step("text")
    assert not guarded.in_transaction


@pytest.mark.parametrize("what", ["samples", "loss", "gradient", "loss of the block alone"])
def test_what_is_not_finite_is_refused(what: str) -> None:
    guarded = simple()
    make_step(guarded, 0)
    before = all_of(guarded)
    given = batch(1)
    if what == "samples":
        given.x[0, 0] = float("nan")
    with guarded.step(given if what == "samples" else None) as step:
        loss = cross_entropy(guarded.model(given.x), given.y)
        step.loss = loss if what != "loss of the block alone" else float("inf")
        (loss * float("nan") if what in ("loss", "gradient") else loss).backward()
        if what == "loss":
            step.loss = loss * float("nan")
        guarded.optimizer.step()
    assert step.refused
    assert step.record is not None
    assert step.record.verdict.stage == "finite_values"
    assert same(all_of(guarded), before)


def test_a_loss_is_one_number() -> None:
    guarded = simple()
    with pytest.raises(LossError, match=r"\[6\]"), guarded.step() as step:
        step.loss = torch.zeros(6)
    assert not guarded.in_transaction


def test_steps_inside_each_other_are_refused_and_undone() -> None:
    guarded = simple()
    make_step(guarded, 0)
    before = all_of(guarded)

    def inner() -> None:
        plain(guarded.model, guarded.optimizer, 1)
        with guarded.step():
            raise AssertionError

    with pytest.raises(TransactionError, match="inside another"), guarded.step():
        inner()
    assert same(all_of(guarded), before)
    assert not make_step(guarded, 2).refused
    used = guarded.step()
    with used:
        pass
    with pytest.raises(TransactionError, match="made before"), used:
        raise AssertionError
    with pytest.raises(TransactionError), guarded.step():
        guarded.rebuild()


def test_a_trusted_step_passes_no_screen_and_no_gate() -> None:
    guard = Guard(screens=[screen], gates=[RefusesAt(*range(9))]) + clipping(max_norm=0.01)
    guarded = simple(guard)
    step = make_step(guarded, 0, trusted=True)
    assert not step.refused
    assert step.record.trusted
    assert step.record.dropped == 0
    assert step.record.gradient_norm_after == pytest.approx(0.01, rel=1e-3)
    with guarded.step(trusted=True) as unseen:
        (cross_entropy(guarded.model(batch(1).x), batch(1).y) * float("nan")).backward()
        guarded.optimizer.step()
    assert unseen.refused


def test_a_gate_rewinds_all_that_joined() -> None:
    model = network()
    ema, counts = averaged(model), Counts()
    guard = Guard(gates=[RefusesAt(5, verdict=rewind(2, "back"))])
    guarded = Guarded(model, OPTIMIZERS["nesterov"](list(model.parameters())), guard,
                      snapshots=SnapshotBuffer(capacity=4), also=[ema, counts])  # fmt: skip
    states = []
    for i in range(6):
        states.append(all_of(guarded, [ema, counts]))
        with guarded.step() as step:
            plain(model, guarded.optimizer, i)
            ema.update_parameters(model)
            counts.update(torch.ones(2))
    assert step.record is not None
    assert step.record.verdict.steps == 2
    assert same(all_of(guarded, [ema, counts]), states[3])
    assert counts.calls == 3


def test_a_rewind_wants_snapshots() -> None:
    guard = Guard(gates=[RefusesAt(0, verdict=rewind(1, "back"))])
    guarded = simple(guard)
    before = all_of(guarded)
    with pytest.raises(SnapshotError):
        make_step(guarded, 0)
    assert same(all_of(guarded), before)


def test_what_a_salvage_would_try_again_is_refused() -> None:
    guarded = simple(refusing(0) + retry_low_score_half(batch(3, n=40), min_samples=1), loss=cross_entropy)
    step = make_step(guarded, 0)
    assert step.refused
    assert step.record.attempts == 1


def test_a_state_that_is_saved_and_loaded_goes_on_with_the_same_bits(tmp_path: Any) -> None:
    def made(seed: int) -> tuple[Guarded, AveragedModel, Any]:
        model = network(seed)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        ema = averaged(model)
        guard = Guard(gates=[RefusesAt(6, verdict=rewind(2, "back"))])
        options: dict[str, Any] = {"snapshots": SnapshotBuffer(capacity=3), "schedulers": [schedule], "also": [ema]}
        return Guarded(model, optimizer, guard, **options), ema, schedule

    def go(guarded: Guarded, ema: AveragedModel, schedule: Any, steps: range) -> None:
        for i in steps:
            with guarded.step():
                plain(guarded.model, guarded.optimizer, i)
                ema.update_parameters(guarded.model)
            schedule.step()

    whole, first, second = made(0), made(0), made(5)
    go(*whole, range(9))
    go(*first, range(5))
    taster.save_state(tmp_path / "state.safetensors", first[0].state_dict())
    second[0].load_state_dict(taster.load_state(tmp_path / "state.safetensors"))
    go(*second, range(5, 9))
    assert same(all_of(second[0], [second[1]]), all_of(whole[0], [whole[1]]))
    assert second[0].steps == whole[0].steps
    assert dict(second[0].counters) == dict(whole[0].counters)


def test_the_state_of_another_loop_is_refused_whole() -> None:
    guarded = simple()
    model = network()
    two = Guarded(model, [torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.SGD(model[3].parameters(), 0.1)])
    before = all_of(two)
    with pytest.raises(CheckpointError, match='1 objects for "optimizers", wanted that of 2'):
        two.load_state_dict(guarded.state_dict())
    assert same(all_of(two), before)


def test_the_state_asked_for_inside_a_step_is_that_before_it() -> None:
    guarded = simple()
    make_step(guarded, 0)
    before = copy.deepcopy(guarded.state_dict())
    with guarded.step():
        plain(guarded.model, guarded.optimizer, 1)
        assert same(guarded.state_dict(), before)


@pytest.mark.parametrize("inside", [True, False])
def test_a_schedule_inside_the_block_joins_it_by_also(inside: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    guarded = Guarded(model, optimizer, refusing(1), also=[schedule] if inside else [])
    rates = []
    for i in range(3):
        with guarded.step():
            plain(model, optimizer, i)
            if inside:
                schedule.step()
        if not inside:
            schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == ([0.5, 0.5, 0.25] if inside else [0.5, 0.25, 0.125])
    assert schedule.last_epoch == (2 if inside else 3)


def test_refusals_are_told() -> None:
    told: list[Any] = []
    guarded = simple(refusing(1), on_refusal=lambda record, given: told.append((record.step, given)))
    for i in range(3):
        make_step(guarded, i)
    assert [step for step, _ in told] == [1]
    assert torch.equal(told[0][1].x, batch(1).x)


def test_samples_out_of_range_are_refused_before_the_step() -> None:
    guarded = simple(input_range=(0.0, 1.0))
    given = batch(0)
    with pytest.raises(BatchError, match="wanted"), guarded.step(given.x * 7, given.y):
        raise AssertionError
    assert not guarded.in_transaction


def test_what_cannot_be_guarded_is_refused_when_it_is_made() -> None:
    model, other = network(), network()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ModelError, match="no optimizer"):
        Guarded(model, [])
    with pytest.raises(ModelError, match="none of the model's parameters"):
        Guarded(other, sgd)
    with pytest.raises(ModelError, match="outside the model"):
        Guarded(model, torch.optim.SGD([*model.parameters(), *other.parameters()], 0.1))
    with pytest.raises(ModelError, match="also: got a int"):
        Guarded(model, sgd, also=[3])  # type: ignore[list-item]
    with pytest.raises(ModelError, match=r"wanted a torch\.nn\.Module"):
        Guarded([], sgd)
