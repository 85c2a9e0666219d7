"""What people's training loops are made of: scalers, several models, engines, wrappers, compilers, checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.core.guarded_zoo import all_of, batch, make_step, network, refusing
from tests.core.zoo import same
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.checkpoint import checkpoint

from taster import COMMIT, Guard, Guarded, Learner, reject
from taster.defences import agem_projection, clipping
from taster.errors import ModelError


def scaled(guarded: Guarded, seed: int, *, factor: float = 1.0, unscale: bool = False) -> Any:
    """One step in half precision, as PyTorch's documentation has it."""
    scaler, given = guarded.scaler, batch(seed)
    assert scaler is not None
    with guarded.step() as step:
        with torch.autocast("cpu", dtype=torch.float16):
            output = guarded.model(given.x)
        step.loss = factor * cross_entropy(output.float(), given.y)
        scaler.scale(step.loss).backward()
        if unscale:
            scaler.unscale_(guarded.optimizer)
        scaler.step(guarded.optimizer)
        scaler.update()
        guarded.optimizer.zero_grad()
    return step


def in_half(guard: Guard | None = None, *, fused: bool = False) -> Guarded:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    return Guarded(model, optimizer, guard, scaler=scaler)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_scaler_is_undone_with_the_rest(fused: bool, unscale: bool) -> None:
    guarded, twin = in_half(refusing(2), fused=fused), in_half(fused=fused)
    assert guarded.scaler is not None
    for i in range(6):
        before = all_of(guarded)
        step = scaled(guarded, i, unscale=unscale)
        if i == 2:
            assert step.refused
            assert same(all_of(guarded), before)
        else:
            scaled(twin, i, unscale=unscale)
    assert guarded.scaler.get_scale() == 2048.0
    assert same(all_of(guarded), all_of(twin))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_transforms_see_gradients_without_the_scale(fused: bool, unscale: bool) -> None:
    guarded = in_half(clipping(max_norm=0.05), fused=fused)
    before = [p.detach().clone() for p in guarded.model.parameters()]
    step = scaled(guarded, 0, unscale=unscale)
    moved = torch.cat([(p - q).flatten() for p, q in zip(guarded.model.parameters(), before, strict=True)]).detach()
    assert step.record.gradient_norm_before < 5.0
    assert step.record.gradient_norm_after == pytest.approx(0.05, rel=1e-3)
    assert float(moved.norm()) == pytest.approx(0.1 * 0.05, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("start", [0, 2])
def test_an_overflow_is_refused_and_lowers_the_scale(fused: bool, start: int) -> None:
    guarded = in_half(fused=fused)
    assert guarded.scaler is not None
    for i in range(start):
        scaled(guarded, i)
    before = all_of(guarded)
    step = scaled(guarded, start, factor=1e30)
    assert step.refused
    assert step.record.verdict.stage == "finite_values"
    assert guarded.scaler.get_scale() == 512.0
    assert same({**all_of(guarded), "scaler": None}, {**before, "scaler": None})
    assert not scaled(guarded, 9).refused


def test_a_loss_that_is_not_finite_leaves_the_scale() -> None:
    guarded = in_half()
    scaled(guarded, 0)
    before = all_of(guarded)
    assert scaled(guarded, 1, factor=float("inf")).refused
    assert same(all_of(guarded), before)


class Pair:
    """A tiny generative adversarial network and its loop."""

    def __init__(self, guard: Guard | None, form: str) -> None:
        torch.manual_seed(0)
        self.gen = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.disc = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 1))
        self.opt_g = torch.optim.Adam(self.gen.parameters(), 0.01)
        self.opt_d = torch.optim.Adam(self.disc.parameters(), 0.01)
        models: Any = [self.gen, self.disc] if form == "list" else {"gen": self.gen, "disc": self.disc}
        self.guarded = None if form == "none" else Guarded(models, [self.opt_g, self.opt_d], guard)

    def update(self, seed: int) -> None:
        torch.manual_seed(seed)
        real, noise, ones = batch(seed).x, torch.randn(6, 4), torch.ones(6, 1)
        self.opt_d.zero_grad()
        fake = self.gen(noise)
        score = binary_cross_entropy_with_logits
        (score(self.disc(real), ones) + score(self.disc(fake.detach()), 0 * ones)).backward()
        self.opt_d.step()
        self.opt_g.zero_grad()
        score(self.disc(fake), ones).backward()
        self.opt_g.step()

    def bits(self) -> Any:
        parts = [self.gen, self.disc, self.opt_g, self.opt_d]
        return [dict(part.state_dict()) for part in parts]


@pytest.mark.parametrize("form", ["list", "dictionary"])
def test_two_models_with_an_optimizer_each(form: str) -> None:
    named = "0.0.weight" if form == "list" else "gen.0.weight"
    seen: list[bool] = []

    def gate(update: Any) -> Any:
        seen.append(named in update.gradient and named in update.after.params)
        return reject("no") if update.step == 2 else COMMIT

    pair, twin = Pair(Guard(gates=[gate]), form), Pair(None, "none")
    assert pair.guarded is not None
    for i in range(5):
        before = all_of(pair.guarded)
        with pair.guarded.step() as step:
            pair.update(i)
        if i == 2:
            assert step.refused
            assert same({**all_of(pair.guarded), "grads": 0}, {**before, "grads": 0})
        else:
            twin.update(i)
    assert same(pair.bits(), twin.bits())
    assert seen == [True] * 5
    again = Pair(Guard(gates=[gate]), form)
    assert again.guarded is not None
    again.guarded.load_state_dict(pair.guarded.state_dict())
    assert same(again.bits(), twin.bits())


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another, as Accelerate has it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        self.optimizer.param_groups = groups

    @property
    def defaults(self) -> Any:  # type: ignore[override]
        return self.optimizer.defaults

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.optimizer.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


def accelerated(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(optimizer)  # type: ignore[no-any-return]


@pytest.mark.parametrize("wrap", [Wrapper, accelerated])
def test_an_optimizer_inside_another_object(wrap: Callable[[Any], torch.optim.Optimizer]) -> None:
    if wrap is accelerated:
        pytest.importorskip("accelerate")
    model, twin = network(), network()
    optimizer = wrap(torch.optim.Adam(model.parameters(), 0.01))
    other = Guarded(twin, torch.optim.Adam(twin.parameters(), 0.01), clipping(max_norm=0.1))
    guarded = Guarded(model, optimizer, refusing(1) + clipping(max_norm=0.1))
    for i in range(4):
        before = all_of(guarded)
        step = make_step(guarded, i)
        assert step.record.gradient_norm_after <= 0.1 * (1 + 1e-4)
        if i == 1:
            assert same(all_of(guarded), before)
        else:
            make_step(other, i)
    assert same(dict(model.state_dict()), dict(twin.state_dict()))


class Engine(nn.Module):
    """An engine as DeepSpeed has it: it makes the steps itself, on copies in float32 of its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.copies = [p.detach().clone() for p in module.parameters()]
        self.optimizer = torch.optim.SGD(self.copies, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @torch.no_grad()
    def step(self) -> None:
        for copied, p in zip(self.copies, self.module.parameters(), strict=True):
            copied.grad, p.grad = p.grad, None
        self.optimizer.step()
        for copied, p in zip(self.copies, self.module.parameters(), strict=True):
            p.copy_(copied)


def test_an_engine_that_hides_its_optimizer_is_refused() -> None:
    engine = Engine(network())
    with pytest.raises(ModelError, match="none of the model's parameters"):
        Guarded(engine, engine.optimizer)
    with pytest.raises(ModelError, match="whose state cannot be restored"):
        Guarded(engine, engine)  # type: ignore[arg-type]
    guarded = Guarded(engine, torch.optim.SGD(engine.parameters(), 0.1))
    before = all_of(guarded)

    def block() -> None:
        engine.backward(cross_entropy(engine(batch(0).x), batch(0).y))
        engine.step()

    with pytest.raises(ModelError, match="hides its optimizer"), guarded.step():
        block()
    assert same(all_of(guarded), before)


def test_an_engine_by_its_name_is_refused() -> None:
    engine = type("DeepSpeedEngine", (Engine,), {"__module__": "deepspeed.runtime.engine"})(network())
    with pytest.raises(ModelError, match="copied into an engine"):
        Guarded(engine, torch.optim.SGD(engine.parameters(), 0.1))


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model(backend: str, how: str) -> None:
    if backend == "inductor" and how == "in place":
        pytest.skip("one run of the compiler is enough")
    plain, model = network(), network()
    if how == "wrapped":
        compiled: Any = torch.compile(model, backend=backend)
    else:
        compiled = model
        model.compile(backend=backend)
    guard = refusing(1) + clipping(max_norm=0.5)
    guarded = Guarded(compiled, torch.optim.SGD(compiled.parameters(), 0.1, momentum=0.9), guard)
    other = Guarded(plain, torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9), clipping(max_norm=0.5))
    for i in range(4):
        before = all_of(guarded)
        if make_step(guarded, i).refused:
            assert i == 1
            assert same(all_of(guarded), before)
        else:
            make_step(other, i)
    assert guarded.counters["rejected"] == 1
    for name, value in model.state_dict().items():
        assert torch.allclose(value, plain.state_dict()[name], atol=1e-5), name
    assert set(guarded.state_dict()["model"]) == set(plain.state_dict())


class Checkpointed(nn.Module):
    """Activations of the middle are computed again in the backward pass."""

    def __init__(self, use_reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 3)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if self.use_reentrant is None:
            return self.last(self.middle(hidden))
        return self.last(checkpoint(self.middle, hidden, use_reentrant=self.use_reentrant))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # without a graph, in views
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("api", ["learner", "guarded"])
def test_activations_that_are_computed_again(use_reentrant: bool, api: str) -> None:
    """In training and in views, whose gradients transforms and screens ask for."""
    probe = batch(7, n=20)
    found = []
    for how in (None, use_reentrant):
        model = Checkpointed(how)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        guard = refusing(1) + agem_projection(probe)
        if api == "learner":
            learner = Learner(model, optimizer, cross_entropy, guard)
            records = [learner.step(batch(i)) for i in range(4)]
            view = learner.view()
        else:
            guarded = Guarded(model, optimizer, guard, loss=cross_entropy)
            records = [make_step(guarded, i).record for i in range(4)]
            view = guarded.view()
        assert [record.verdict.committed for record in records] == [True, False, True, True]
        found.append([dict(model.state_dict()), view.loss_gradient(probe.x, probe.y)])
    assert same(found[0], found[1])
