"""Models and optimizers that are unlike the usual ones: they work, or a named error comes before the first step."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from tests.core.zoo import batch, same, snapshot_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import taster
from taster import Guard, Learner, reject
from taster.errors import BatchError, ModelError, TransactionError

SGD = torch.optim.SGD


def learner(model: nn.Module, guard: Guard | None = None, rate: float = 0.1, **options: Any) -> Learner:
    return Learner(model, SGD(model.parameters(), rate), cross_entropy, guard, **options)


class Closure(SGD):
    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step()


class NeedsClosure(SGD):
    def step(self, closure: Any) -> Any:
        return closure()


@pytest.mark.parametrize("kind", [Closure, NeedsClosure, torch.optim.LBFGS])
def test_an_optimizer_that_wants_a_closure_is_named(kind: type[torch.optim.Optimizer]) -> None:
    net = nn.Linear(8, 3)
    before = net.weight.clone()
    with pytest.raises(ModelError, match="closure"):
        Learner(net, kind(net.parameters(), 0.1), cross_entropy).step(batch(0))
    assert torch.equal(net.weight, before)


def test_a_model_that_cannot_learn_is_told_before_the_first_step() -> None:
    with pytest.raises(ModelError, match="all frozen"):
        learner(nn.Linear(8, 3).requires_grad_(False))
    with pytest.raises(ModelError, match="lazy layers"):
        learner(nn.LazyLinear(3))
    with pytest.raises(ModelError, match="TorchScript"):
        learner(torch.jit.trace(nn.Linear(8, 3), torch.rand(2, 8)))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_head_that_is_not_used_is_told() -> None:
    net = nn.ModuleDict({"a": nn.Linear(8, 3), "b": nn.Linear(8, 3)})
    net.forward = lambda x: net["a"](x)  # type: ignore[method-assign]
    for p in net["a"].parameters():
        p.requires_grad_(False)
    subject = learner(net)
    with pytest.raises(taster.errors.TasterError, match=r"connected|depends on none"):
        subject.step(batch(0))
    assert not subject.in_transaction


def test_a_step_inside_no_grad_learns_and_inside_inference_mode_is_named() -> None:
    subject, twin = learner(nn.Linear(8, 3)), learner(nn.Linear(8, 3))
    twin.model.load_state_dict(subject.model.state_dict())
    twin.step(batch(0))
    with torch.no_grad():
        subject.step(batch(0))
    assert torch.equal(subject.model.weight, twin.model.weight)
    with torch.inference_mode(), pytest.raises(ModelError, match="inference_mode"):
        subject.step(batch(1))
    assert subject.step(batch(1)).verdict.committed


def test_sparse_gradients_are_learned_and_named_where_a_transform_meets_them() -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.EmbeddingBag(50, 8, sparse=True), nn.Linear(8, 3))

    x, y = torch.randint(0, 50, (16, 6)), torch.randint(0, 3, (16,))
    plain, subject = net(), learner(net(), input_range=None)
    optimizer = SGD(plain.parameters(), 0.1)
    cross_entropy(plain(x), y).backward()
    optimizer.step()
    assert subject.step(x, y).verdict.committed
    assert all(map(torch.equal, plain.parameters(), subject.model.parameters()))
    same_gradient: Any = lambda gradient, view: gradient  # noqa: E731
    guarded = learner(net(), Guard(transforms=[same_gradient]), input_range=None)
    before = snapshot_of(guarded)
    with pytest.raises(ModelError, match="sparse gradients"):
        guarded.step(x, y)
    assert same(before, snapshot_of(guarded))


def test_gradients_outside_the_optimizer_do_not_pile_up() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].weight.grad = torch.ones(8, 8)  # somebody else's
    nan = [False]

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(output, y) * (float("nan") if nan[0] else 1.0)

    subject = Learner(model, SGD(model[2].parameters(), 0.0), loss)
    norms = {subject.step(batch(0)).gradient_norm_before for _ in range(3)}
    assert len(norms) == 1
    nan[0] = True
    assert not subject.step(batch(0)).verdict.committed
    nan[0] = False
    assert subject.step(batch(0)).gradient_norm_before in norms
    assert torch.equal(model[0].weight.grad, torch.ones(8, 8))


def test_a_step_inside_a_step_is_refused_and_harms_neither() -> None:
    inner: list[BaseException] = []

    def gate(update: Any) -> Any:
        try:
            subject.step(batch(1))
        except TransactionError as error:
            inner.append(error)
        return taster.COMMIT

    subject = learner(nn.Linear(8, 3), Guard(gates=[gate]))
    assert subject.step(batch(0)).verdict.committed
    assert len(inner) == 1
    assert subject.steps == 1
    assert subject.step(batch(2)).verdict.committed


def test_of_two_threads_one_makes_the_step_and_the_other_is_refused() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def gate(update: Any) -> Any:
        inside.set()
        go_on.wait(20)
        return taster.COMMIT

    subject = learner(nn.Linear(8, 3), Guard(gates=[gate]))
    other = threading.Thread(target=subject.step, args=(batch(0),))
    other.start()
    assert inside.wait(20)
    with pytest.raises(TransactionError, match="one at a time"):
        subject.step(batch(1))
    assert subject.in_transaction  # the other's, untouched
    go_on.set()
    other.join()
    assert subject.steps == 1
    assert not subject.in_transaction


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.task = nn.Linear(8, 6), "a"
        self.options = {"scale": 1.0}
        self.heads = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(6, 3)})

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[self.task](self.body(x).relu()) * self.options["scale"]


def test_views_see_the_model_that_is_there() -> None:
    net = Heads()
    subject, x = learner(net), batch(0).x

    def agrees() -> bool:
        with torch.no_grad():
            return torch.equal(subject.view().forward(x), net.eval()(x))

    assert agrees()
    net.task = "b"  # an attribute
    assert agrees()
    net.options["scale"] = 3.0  # the inside of one
    assert agrees()
    net.heads["b"] = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))  # a layer
    assert agrees()
    hook = net.body.register_forward_hook(lambda module, inputs, output: output + 1)
    assert agrees()
    hook.remove()
    assert agrees()


def test_a_thawed_layer_is_trainable_for_views() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    net[0].requires_grad_(False)
    subject = learner(net)
    assert set(subject.view().trainable) == {"1.weight", "1.bias"}
    net[0].requires_grad_(True)
    assert set(subject.view().trainable) == set(dict(net.named_parameters()))
    assert set(subject.view().loss_gradient(batch(0).x, batch(0).y)) == set(dict(net.named_parameters()))


def test_a_structure_is_copied_again_only_where_it_changed() -> None:
    net = Heads()
    subject = learner(net)
    skeleton = subject.view().functional_model._structure
    copied = skeleton.module
    for task in ("b", "a", "b"):
        net.task = task
        subject.step(batch(0))
        net.train(task == "a")
        subject.view().forward(batch(1).x)
    assert skeleton.module is copied
    net.heads["c"] = nn.Linear(6, 3)
    subject = learner(net)
    subject.view().forward(batch(1).x)
    assert subject.view().functional_model._structure.module is not copied


def test_a_hook_can_tell_a_view_from_training() -> None:
    net, seen = nn.Linear(8, 3), []
    net.register_forward_hook(lambda module, inputs, output: None if taster.in_view() else seen.append(len(output)))
    subject = learner(net, taster.guard(taster.Batch(batch(1, n=60).x, batch(1, n=60).y)))
    subject.step(batch(0))
    subject.step(batch(2))
    assert seen == [6, 6]


def test_a_view_writes_into_no_parameter() -> None:
    net = nn.Sequential(nn.EmbeddingBag(20, 8, max_norm=0.1), nn.Linear(8, 3))
    x = torch.randint(0, 20, (6, 4))
    before = net[0].weight.clone()
    subject = learner(net, input_range=None)
    for _ in range(2):
        subject.view().forward(x)
    assert torch.equal(net[0].weight, before)


def test_every_optimizer_wrapper_is_put_back_with_what_it_wraps() -> None:
    class Slow(torch.optim.Optimizer):
        """A wrapper with state of its own in attributes."""

        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.calls, self.sums = inner, 0, [torch.zeros(2)]
            super().__init__(inner.param_groups, {})

        def step(self, closure: Any = None) -> None:
            self.calls += 1
            self.sums[0] += 1
            self.inner.step()

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.inner.zero_grad(set_to_none)

    net = nn.Linear(8, 3)
    inner = torch.optim.Adam(net.parameters(), 0.1)
    wrapper = Slow(inner)
    subject = Learner(net, wrapper, cross_entropy, Guard(gates=[lambda update: reject("no")]))
    subject.step(batch(0))
    assert (wrapper.calls, float(wrapper.sums[0][0]), len(inner.state)) == (0, 0.0, 0)


def test_an_optimizer_hook_goes_on_with_its_own_object() -> None:
    class Average:
        def __init__(self) -> None:
            self.updates = 0

        def update(self, *args: Any) -> None:
            self.updates += 1

    average, net = Average(), nn.Linear(8, 3)
    optimizer = SGD(net.parameters(), 0.1)
    optimizer.register_step_post_hook(average.update)
    guard = Guard(gates=[lambda update: reject("no") if update.step == 1 else taster.COMMIT])
    subject = Learner(net, optimizer, cross_entropy, guard)
    for seed in range(4):
        subject.step(batch(seed))
    assert average.updates == 4


def test_what_cannot_be_restored_or_copied_is_named() -> None:
    net = nn.Sequential(nn.Linear(8, 3))
    net.register_buffer("graph", torch.eye(3).to_sparse())
    with pytest.raises(ModelError, match="graph, which is sparse"):
        learner(net)
    listed = nn.Linear(8, 3)
    listed.weights = [listed.weight]
    with pytest.raises(ModelError, match="plain attribute or list"):
        learner(listed).view().forward(batch(0).x)


def test_a_forward_that_was_replaced_computes_with_the_tensors_of_the_view() -> None:
    wrapped = nn.Linear(8, 3)
    whole = wrapped.forward
    wrapped.forward = lambda x: whole(x)  # type: ignore[method-assign]
    view, x = learner(wrapped).view(), batch(0).x
    torch.testing.assert_close(view.forward(x), wrapped(x))
    zeros = {name: torch.zeros_like(value) for name, value in view.params.items()}
    assert not view.forward(x, params=zeros).any()


def test_shared_buffers_kept_activations_and_late_ties_are_seen_by_views() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.fc = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
            self.same = self.norm

        def forward(self, x: Tensor) -> Tensor:
            self.hidden = self.b(self.a(x))
            return self.fc(self.same(self.hidden))

    net = Keeps()
    subject, x = learner(net), batch(0).x
    for tie in (False, True):
        if tie:
            net.b.weight = net.a.weight
            subject = learner(net)
        subject.step(batch(1))
        with torch.no_grad():
            assert torch.allclose(subject.view().forward(x), net.eval()(x))
        net.train()


def test_raw_errors_of_a_model_name_the_samples() -> None:
    class Strict(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise TypeError("not these")

    with pytest.raises(BatchError, match=r"\[6, 8\].*not these"):
        learner(Strict(8, 3)).step(batch(0))
