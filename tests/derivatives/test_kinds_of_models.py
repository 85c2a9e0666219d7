"""Models that a method cannot differentiate fall back to double backward; those that it cannot either are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.derivatives import Derivatives, DiffMethod, LossFn
from taster.errors import BatchError, ModelError

METHODS = ["double_backward", "forward_over_reverse", "finite_difference"]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Branching(nn.Module):
    """Takes another way depending on the values, one of them with a kink more."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.one(x.mean(1)))
        return self.head(torch.relu(hidden) if float(hidden.detach().sum()) > 0 else hidden)


class Distances(nn.Module):
    """Classifies by distances to prototypes, which torch differentiates once only."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x.mean(1), self.prototypes)


class Tokens(nn.Module):
    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4, sparse=sparse), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(x)).mean(1))


def problem(model: nn.Module, x: Tensor) -> tuple[LossFn, dict[str, Tensor], Batch]:
    """Its loss, parameters and a batch; the model is seen as an attack sees it."""
    torch.manual_seed(0)
    view = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy).view()
    y = torch.randint(0, 3, (len(x),))
    return lambda params, x, y: view.loss(x, y, params=params), dict(view.trainable), Batch(x, y)


def all_of(derivatives: Derivatives, loss: LossFn, params: dict[str, Tensor], batch: Batch) -> list[Tensor]:
    """Derivatives of every kind, flattened."""
    v = {name: torch.ones_like(value) for name, value in params.items()}
    found = [derivatives.mixed(loss, params, [(1.0, v)])(batch.x, batch.y)] if batch.x.is_floating_point() else []
    found += derivatives.accumulation_direction(loss, params, batch, batch).values()
    found += derivatives.hessian_vector_product(loss, params, batch, v).values()
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [Recurrent, Branching])
def test_recurrent_and_branching_models_are_differentiated(build: type[nn.Module], method: str) -> None:
    torch.manual_seed(1)
    loss, params, batch = problem(build(), torch.rand(6, 4, 5))
    truth = all_of(Derivatives(DiffMethod("double_backward")), loss, params, batch)
    found = all_of(Derivatives(DiffMethod.parse(method)), loss, params, batch)
    for own, true in zip(found, truth, strict=True):
        torch.testing.assert_close(own, true, rtol=0.02, atol=0.02 * float(true.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_an_operation_without_a_second_derivative_is_named(method: str) -> None:
    loss, params, batch = problem(Distances(), torch.rand(6, 4, 5))
    for compute in (
        lambda d: all_of(d, loss, params, batch),
        lambda d: d.accumulation_derivative(loss, params, batch, batch, params),
    ):
        with pytest.raises(ModelError, match=r"cannot be differentiated twice.*_cdist_backward"):
            compute(Derivatives(DiffMethod.parse(method)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sparse", [False, True])
def test_tokens_have_derivatives_by_parameters_only(method: str, sparse: bool) -> None:
    torch.manual_seed(1)
    loss, params, batch = problem(Tokens(), torch.randint(0, 7, (6, 5)))
    truth = all_of(Derivatives(DiffMethod("double_backward")), loss, params, batch)
    torch.manual_seed(1)
    loss, params, batch = problem(Tokens(sparse), batch.x)
    derivatives = Derivatives(DiffMethod.parse(method))
    for own, true in zip(all_of(derivatives, loss, params, batch), truth, strict=True):
        torch.testing.assert_close(own, true, rtol=0.02, atol=0.02 * float(true.abs().max()))
    with pytest.raises(BatchError, match=r"got samples of torch\.int64, which have no derivative"):
        derivatives.mixed(loss, params, [(1.0, params)])(batch.x, batch.y)
