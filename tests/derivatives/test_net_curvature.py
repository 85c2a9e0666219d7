"""Curvature of a net's loss: products and solutions against the whole matrix in float64, messages."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.core.batch import Batch
from taster.core.param_vectors import flatten, unflatten
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.derivatives.net_curvature import CurvatureSettings, NetCurvature
from taster.errors import ModelError
from taster.offline import NetTraining


def samples() -> Batch:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(23, 4, generator=g, dtype=torch.float64)
    return Batch(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


def make_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def trained_view(epochs: int = 1) -> View:
    settings = TrainingSettings(epochs=epochs, batch_size=8, learning_rate=0.1)
    return NetTraining(lambda _: make_net(), settings)(samples())


def whole_matrix(view: View, kind: Literal["gauss_newton", "hessian"]) -> Tensor:
    """[p, p], by derivatives of the outputs and the loss in all parameters."""
    params, batch = view.trainable, samples()
    at = flatten(params)

    def outputs(vector: Tensor) -> Tensor:
        found: Tensor = view.forward(batch.x, params=unflatten(vector, params))
        return found

    if kind == "hessian":
        hessian: Tensor = torch.autograd.functional.hessian(lambda v: cross_entropy(outputs(v), batch.y), at)
        return hessian
    jacobian = torch.autograd.functional.jacobian(outputs, at)
    p = outputs(at).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nkp,nkl,nlq->pq", jacobian, inner, jacobian) / len(batch)


@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("chunk", [7, 500])
def test_products_and_solutions_are_those_of_the_whole_matrix(
    kind: Literal["gauss_newton", "hessian"], chunk: int
) -> None:
    view = trained_view()
    damping = 0.05 if kind == "gauss_newton" else 1.0
    matrix = whole_matrix(view, kind)
    matrix = matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
    settings = CurvatureSettings(curvature=kind, cg_tolerance=1e-11)
    system = NetCurvature(view, samples(), damping, settings, chunk=chunk)
    along = torch.randn(len(matrix), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(system.product(along), matrix @ along, atol=1e-10, rtol=1e-8)
    right = view.loss_gradient(samples())
    exact = torch.linalg.solve(matrix, flatten(right))
    torch.testing.assert_close(flatten(system.solve(right)), exact, atol=1e-8, rtol=1e-7)


def test_a_matrix_that_is_not_positive_definite_is_told() -> None:
    view = trained_view()
    matrix = whole_matrix(view, "hessian")
    eigen = torch.linalg.eigh(matrix)
    assert float(eigen.eigenvalues[0]) < 0
    right = unflatten(eigen.eigenvectors[:, 0], view.trainable)
    system = NetCurvature(view, samples(), 0.0, CurvatureSettings(curvature="hessian"))
    with pytest.raises(ModelError, match="not positive with damping 0, wanted a positive definite matrix: raise damp"):
        system.solve(right)


def test_too_few_products_are_told() -> None:
    view = trained_view()
    system = NetCurvature(view, samples(), 1e-6, CurvatureSettings(cg_tolerance=1e-6, cg_iterations=1))
    with pytest.raises(ModelError, match="after 1 products, wanted 1e-06: raise l2 or damping"):
        system.solve(view.loss_gradient(samples()))


def test_an_output_of_several_parts_is_told() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x)}

    settings = TrainingSettings(epochs=1, batch_size=8, learning_rate=0.1)
    view = NetTraining(lambda _: Two(), settings)(samples())
    right = view.loss_gradient(samples())
    with pytest.raises(ModelError, match='got an output of type dict, wanted one tensor: set curvature = "hessian"'):
        NetCurvature(view, samples(), 1.0, CurvatureSettings()).solve(right)
    NetCurvature(view, samples(), 1.0, CurvatureSettings(curvature="hessian")).solve(right)
