"""Every derivative in every way and normalization against finite differences in float64, through all kinds of layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from taster.core.batch import Batch
from taster.derivatives import (
    Derivatives,
    DiffMethod,
    Normalize,
    inner,
    normalized,
    sign_agreement,
)
from taster.derivatives.autodiff import DoubleBackward, gradient
from taster.errors import SettingError
from taster.models import small_cnn

NORMALIZATIONS: list[Normalize] = ["none", "global", "per_tensor"]
METHODS = ["double_backward", "double_backward channels_last", "forward_over_reverse", "finite_difference"]


class ConvNet(nn.Module):
    def __init__(self, norm: Callable[[], nn.Module], *middle: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm(), *middle, nn.Flatten())
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
    "batch norm": lambda: ConvNet(lambda: nn.BatchNorm2d(4), nn.GELU(), nn.AvgPool2d(2)),
    "group norm": lambda: ConvNet(lambda: nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2)),
    "kinks": lambda: ConvNet(lambda: nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    "attention": Attention,
}


class Problem:
    """A loss in float64 with everything the derivatives need."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model = MODELS[name]().double().eval()
        self.params = {k: v.detach() for k, v in self.model.named_parameters()}
        self.x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
        self.y = torch.tensor([0, 1, 2])
        self.a = Batch(torch.rand(3, 1, 4, 4, dtype=torch.float64), self.y)
        self.b = Batch(self.x, self.y)
        self.v = {k: torch.randn_like(p) for k, p in self.params.items()}

    def loss(self, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(self.model, dict(params), (x,)), y)

    def gradient(self, x: Tensor, params: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        return gradient(self.loss, params or self.params, Batch(x, self.y))


def numeric(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences, entry by entry."""
    out = torch.zeros_like(at)
    for i in range(at.numel()):
        up, down = at.clone(), at.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        out.view(-1)[i] = (f(up) - f(down)) / (2 * step)
    return out


def assert_same(found: Tensor, expected: Tensor, way: str) -> None:
    """To rounding; differences over some thousandths of the gradient to some hundredths, more where it is curved."""
    if way == "finite_difference":
        assert float((found - expected).norm()) < 0.1 * float(expected.norm()) + 1e-9
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.fixture(params=list(MODELS))
def problem(request: pytest.FixtureRequest) -> Problem:
    return Problem(request.param)


def test_gradient(problem: Problem) -> None:
    found = problem.gradient(problem.x)
    name = "head.weight"
    expected = numeric(lambda w: problem.loss({**problem.params, name: w}, problem.x, problem.y), problem.params[name])
    torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-9)
    assert not any(p.requires_grad for p in problem.params.values())


@pytest.mark.parametrize("way", METHODS)
@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_mixed_derivative(problem: Problem, how: Normalize, way: str) -> None:
    terms = [(1.0, problem.v), (-0.5, {k: v.flip(0) for k, v in problem.v.items()})]

    def value(x: Tensor) -> Tensor:
        own = problem.gradient(x)
        return sum(w * inner(own, v, how) for w, v in terms)

    derivatives = Derivatives(DiffMethod.parse(way))
    found = derivatives.mixed(problem.loss, problem.params, terms, how)(problem.x, problem.y)
    assert not derivatives.fallbacks
    assert_same(found, numeric(value, problem.x), way)


@pytest.mark.parametrize("way", METHODS)
@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_accumulation_direction(problem: Problem, how: Normalize, way: str) -> None:
    def value(params: dict[str, Tensor]) -> Tensor:
        return inner(problem.gradient(problem.a.x, params), problem.gradient(problem.x, params), how)

    derivatives = Derivatives(DiffMethod.parse(way))
    found = derivatives.accumulation_direction(problem.loss, problem.params, problem.a, problem.b, how)
    assert not derivatives.fallbacks
    for name in ("head.weight", next(iter(problem.params))):
        expected = numeric(lambda w, name=name: value({**problem.params, name: w}), problem.params[name])
        assert_same(found[name], expected, way)


@pytest.mark.parametrize("outer", ["none", "per_tensor"])
@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_accumulation_derivative(problem: Problem, how: Normalize, outer: Normalize) -> None:
    def value(x: Tensor) -> Tensor:
        towards = DoubleBackward().accumulation_direction(
            problem.loss, problem.params, problem.a, Batch(x, problem.y), how
        )
        return inner(towards, problem.v, outer)

    found = Derivatives().accumulation_derivative(
        problem.loss, problem.params, problem.a, problem.b, problem.v, how, outer
    )
    torch.testing.assert_close(found, numeric(value, problem.x), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("way", METHODS)
def test_hessian_vector_product(problem: Problem, way: str) -> None:
    found = Derivatives(DiffMethod.parse(way)).hessian_vector_product(
        problem.loss, problem.params, problem.b, problem.v
    )
    step = 1e-5
    up, down = ({k: p + s * problem.v[k] for k, p in problem.params.items()} for s in (step, -step))
    high, low = (problem.gradient(problem.x, p) for p in (up, down))
    for name in found:
        assert_same(found[name], (high[name] - low[name]) / (2 * step), way)


def test_mixed_derivative_passes_gradcheck() -> None:
    problem = Problem("group norm")
    x = problem.x.clone().requires_grad_()

    def value(x: Tensor) -> Tensor:
        leaves = {k: p.clone().requires_grad_() for k, p in problem.params.items()}
        found = torch.autograd.grad(problem.loss(leaves, x, problem.y), list(leaves.values()), create_graph=True)
        return inner(dict(zip(leaves, found, strict=True)), problem.v, "per_tensor")

    assert torch.autograd.gradcheck(value, (x,))
    torch.testing.assert_close(
        DoubleBackward().mixed_derivative(
            problem.loss,
            problem.params,
            problem.b,
            normalized(problem.v, "per_tensor"),
            "per_tensor",
        ),
        torch.autograd.grad(value(x), x)[0],
    )


def test_half_precision_agrees_in_sign() -> None:
    torch.manual_seed(0)
    model = small_cnn((1, 4, 4), 3, width=8).eval()
    params = {k: v.detach() for k, v in model.named_parameters()}
    x, y = torch.rand(32, 1, 4, 4), torch.arange(32) % 3

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, dict(params), (x,)), y)

    v = gradient(loss, params, Batch(torch.rand(32, 1, 4, 4), torch.arange(32) % 3))
    derivatives = Derivatives(DiffMethod.parse("finite_difference bfloat16 channels_last"))
    found = derivatives.mixed(loss, params, [(1.0, v)])(x, y)
    assert found.dtype == torch.float32
    assert not derivatives.fallbacks
    assert sign_agreement(found, DoubleBackward().mixed_derivative(loss, params, Batch(x, y), v)) >= 0.95


class Bent(nn.Module):
    """A kink that no difference can see through: its gradient is right, its value jumps about."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(x.flatten(1))
        return out + (torch.sin(1e9 * out) - torch.sin(1e9 * out).detach()) * 0 + torch.sin(1e6 * out).detach()


def test_a_way_that_disagrees_gives_way_to_double_backward_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Bent()
    params = {k: v.detach() for k, v in model.named_parameters()}
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    v = {k: torch.randn_like(p) for k, p in params.items()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, dict(params), (x,)), y)

    derivatives = Derivatives(DiffMethod("finite_difference"))
    found = derivatives.mixed(loss, params, [(1.0, v)])(x, y)
    assert torch.equal(found, DoubleBackward().mixed_derivative(loss, params, Batch(x, y), v))
    assert "mixed derivative" in derivatives.fallbacks
    assert "by double_backward" in derivatives.describe()
    assert "cannot be used" in caplog.text


def test_a_model_with_other_kinks_in_the_second_pass_falls_back() -> None:
    calls = []

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        out = x.flatten(1) @ params["w"]
        out = torch.relu(out) if len(calls) % 2 else out
        return cross_entropy(out, y)

    torch.manual_seed(0)
    params = {"w": torch.randn(16, 3)}
    derivatives = Derivatives(DiffMethod("finite_difference"))
    found = derivatives.mixed(loss, params, [(1.0, {"w": torch.randn(16, 3)})])(
        torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    )
    assert found.isfinite().all()
    assert "ActivationPatternError" in derivatives.fallbacks["mixed derivative"]


def test_methods_have_names() -> None:
    for name in [*METHODS, "finite_difference bfloat16", "double_backward bfloat16 channels_last"]:
        assert str(DiffMethod.parse(name)) == name
    for wrong in ("", "quick", "finite_difference float16", "forward_over_reverse bfloat16"):
        with pytest.raises(SettingError, match="wanted one of double_backward"):
            DiffMethod.parse(wrong)


def test_the_three_inner_products() -> None:
    a = {"u": torch.tensor([3.0, 0.0]), "w": torch.tensor([0.0, 4.0])}
    b = {"u": torch.tensor([1.0, 1.0]), "w": torch.tensor([1.0, 1.0])}
    assert float(inner(a, b)) == 7.0
    assert float(inner(a, b, "global")) == pytest.approx(7 / (5 * 2))
    assert float(inner(a, b, "per_tensor")) == pytest.approx(2 / 2**0.5)
    assert torch.allclose(normalized(a, "global")["w"], torch.tensor([0.0, 0.8]))
    assert torch.allclose(normalized(a, "per_tensor")["u"], torch.tensor([1.0, 0.0]))
    assert torch.equal(normalized(a, "none")["u"], a["u"])


@pytest.mark.parametrize("way", METHODS)
@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_a_zero_gradient_gives_finite_numbers(how: Normalize, way: str) -> None:
    params = {"w": torch.zeros(3), "unused": torch.ones(2)}
    x, y = torch.ones(2, 3), torch.zeros(2)
    found = Derivatives(DiffMethod.parse(way)).mixed(
        lambda p, x, y: (x @ p["w"] - y).square().mean(),
        params,
        [(1.0, {"w": torch.ones(3), "unused": torch.ones(2)})],
        how,
    )(x, y)
    assert found.isfinite().all()
    zero = gradient(lambda p, x, y: p["w"].sum(), params, Batch(x, y))
    assert torch.equal(zero["unused"], torch.zeros(2))


def test_a_gradient_that_is_rounding_error_is_not_blown_up() -> None:
    torch.manual_seed(0)
    model = Attention(key_bias=True).eval()
    params = {k: v.detach() for k, v in model.named_parameters()}
    batch = Batch(torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2]))
    found = gradient(lambda p, x, y: cross_entropy(functional_call(model, p, (x,)), y), params, batch)
    unit = normalized(found, "per_tensor")
    assert float(unit["head.weight"].norm()) == pytest.approx(1, abs=1e-4)
    assert float(unit["k.bias"].norm()) < 0.1  # softmax does not depend on it at all
