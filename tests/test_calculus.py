"""Every derivative against finite differences in float64, in each normalisation, through every kind of layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from taster.calculus import (
    Normalise,
    accumulation_derivative,
    accumulation_direction,
    gradient,
    hessian_vector_product,
    inner,
    mixed_derivative,
    normalised,
)

WAYS: list[Normalise] = ["none", "global", "per_tensor"]


class ConvNet(nn.Module):
    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm(), nn.GELU(), nn.AvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Attention(nn.Module):
    def __init__(self, key_bias: bool = False) -> None:
        super().__init__()
        self.q, self.v = nn.Linear(4, 4), nn.Linear(4, 4)
        self.k = nn.Linear(4, 4, bias=key_bias)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 2, dim=-1)
        return self.head((weights @ self.v(x)).mean(1))


MODELS = {
    "batch norm": lambda: ConvNet(lambda: nn.BatchNorm2d(4)),
    "group norm": lambda: ConvNet(lambda: nn.GroupNorm(2, 4)),
    "attention": Attention,
}


class Problem:
    """A loss in float64 with everything the derivatives need."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model = MODELS[name]().double().eval()
        self.params = {k: v.detach() for k, v in self.model.named_parameters()}
        self.x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
        self.other = torch.rand(3, 1, 4, 4, dtype=torch.float64)
        self.y = torch.tensor([0, 1, 2])
        self.v = {k: torch.randn_like(p) for k, p in self.params.items()}

    def loss(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        return cross_entropy(functional_call(self.model, params, (x,)), self.y)


def numeric(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences, entry by entry."""
    out = torch.zeros_like(at)
    for i in range(at.numel()):
        up, down = at.clone(), at.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        out.view(-1)[i] = (f(up) - f(down)) / (2 * step)
    return out


@pytest.fixture(params=list(MODELS))
def problem(request: pytest.FixtureRequest) -> Problem:
    return Problem(request.param)


def test_gradient(problem: Problem) -> None:
    found = gradient(lambda p: problem.loss(p, problem.x), problem.params)
    name = "head.weight"
    expected = numeric(lambda w: problem.loss({**problem.params, name: w}, problem.x), problem.params[name])
    torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-9)
    assert not any(p.requires_grad for p in problem.params.values())


@pytest.mark.parametrize("how", WAYS)
def test_mixed_derivative(problem: Problem, how: Normalise) -> None:
    terms = [(1.0, problem.v), (-0.5, {k: v.flip(0) for k, v in problem.v.items()})]

    def value(x: Tensor) -> Tensor:
        own = gradient(lambda p: problem.loss(p, x), problem.params)
        return sum(w * inner(own, v, how) for w, v in terms)

    found = mixed_derivative(problem.loss, problem.params, problem.x, terms, how)
    torch.testing.assert_close(found, numeric(value, problem.x), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("how", WAYS)
def test_accumulation_direction(problem: Problem, how: Normalise) -> None:
    def value(params: dict[str, Tensor]) -> Tensor:
        a = gradient(lambda p: problem.loss(p, problem.x), params)
        return inner(a, gradient(lambda p: problem.loss(p, problem.other), params), how)

    found = accumulation_direction(
        lambda p: problem.loss(p, problem.x), lambda p: problem.loss(p, problem.other), problem.params, how
    )
    for name in ("head.weight", next(iter(problem.params))):
        expected = numeric(lambda w, name=name: value({**problem.params, name: w}), problem.params[name])
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("outer", ["none", "per_tensor"])
@pytest.mark.parametrize("how", WAYS)
def test_accumulation_derivative(problem: Problem, how: Normalise, outer: Normalise) -> None:
    def value(x: Tensor) -> Tensor:
        towards = accumulation_direction(
            lambda p: problem.loss(p, problem.other), lambda p: problem.loss(p, x), problem.params, how
        )
        return inner(towards, problem.v, outer)

    found = accumulation_derivative(
        lambda p: problem.loss(p, problem.other), problem.loss, problem.params, problem.x, problem.v, how, outer
    )
    torch.testing.assert_close(found, numeric(value, problem.x), rtol=1e-5, atol=1e-8)


def test_hessian_vector_product(problem: Problem) -> None:
    found = hessian_vector_product(lambda p: problem.loss(p, problem.x), problem.params, problem.v)
    step = 1e-5
    up, down = ({k: p + s * problem.v[k] for k, p in problem.params.items()} for s in (step, -step))
    high, low = (gradient(lambda q: problem.loss(q, problem.x), p) for p in (up, down))
    for name in found:
        torch.testing.assert_close(found[name], (high[name] - low[name]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_mixed_derivative_passes_gradcheck() -> None:
    problem = Problem("group norm")
    x = problem.x.clone().requires_grad_()

    def value(x: Tensor) -> Tensor:
        leaves = {k: p.clone().requires_grad_() for k, p in problem.params.items()}
        found = torch.autograd.grad(problem.loss(leaves, x), list(leaves.values()), create_graph=True)
        return inner(dict(zip(leaves, found, strict=True)), problem.v, "per_tensor")

    assert torch.autograd.gradcheck(value, (x,))
    torch.testing.assert_close(
        mixed_derivative(problem.loss, problem.params, problem.x, [(1.0, problem.v)], "per_tensor"),
        torch.autograd.grad(value(x), x)[0],
    )


def test_the_three_inner_products() -> None:
    a = {"u": torch.tensor([3.0, 0.0]), "w": torch.tensor([0.0, 4.0])}
    b = {"u": torch.tensor([1.0, 1.0]), "w": torch.tensor([1.0, 1.0])}
    assert float(inner(a, b)) == 7.0
    assert float(inner(a, b, "global")) == pytest.approx(7 / (5 * 2))
    assert float(inner(a, b, "per_tensor")) == pytest.approx(2 / 2**0.5)
    assert torch.allclose(normalised(a, "global")["w"], torch.tensor([0.0, 0.8]))
    assert torch.allclose(normalised(a, "per_tensor")["u"], torch.tensor([1.0, 0.0]))
    assert torch.equal(normalised(a, "none")["u"], a["u"])


@pytest.mark.parametrize("how", WAYS)
def test_a_zero_gradient_gives_finite_numbers(how: Normalise) -> None:
    params = {"w": torch.zeros(3), "unused": torch.ones(2)}
    x = torch.ones(2, 3)
    found = mixed_derivative(
        lambda p, x: (x @ p["w"]).square().mean(),
        params,
        x,
        [(1.0, {"w": torch.ones(3), "unused": torch.ones(2)})],
        how,
    )
    assert found.isfinite().all()
    assert torch.equal(gradient(lambda p: p["w"].sum(), params)["unused"], torch.zeros(2))


def test_a_gradient_that_is_rounding_error_is_not_blown_up() -> None:
    torch.manual_seed(0)
    model = Attention(key_bias=True).eval()
    params = {k: v.detach() for k, v in model.named_parameters()}
    x, y = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    found = gradient(lambda p: cross_entropy(functional_call(model, p, (x,)), y), params)
    unit = normalised(found, "per_tensor")
    assert float(unit["head.weight"].norm()) == pytest.approx(1, abs=1e-4)
    assert float(unit["k.bias"].norm()) < 0.1  # softmax does not depend on it at all
