"""Linear systems with the curvature of a net's training loss, which is known by its products alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.core.batch import Batch
from taster.core.param_vectors import flatten, unflatten
from taster.core.types import Tensors
from taster.core.view import View
from taster.derivatives.autodiff import ForwardOverReverse
from taster.derivatives.linear_systems import iterative_solve
from taster.errors import ModelError
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import settings_group

Curvature = Literal["gauss_newton", "hessian"]


@settings_group
class CurvatureSettings:
    """How linear systems with the curvature of a net's loss are solved.

    Attributes:
        curvature: "gauss_newton" (Jᵀ C J, with J the Jacobian of the outputs in the parameters and C the Hessian of the
            loss in the outputs), which has no negative eigenvalue under a convex loss; or "hessian", which has some
            away from a minimum, so that `damping` must be greater than the least.
        curvature_samples: training samples that it is the mean over, drawn at random where there are more.
        cg_tolerance: residual of conjugate gradients, relative to the right side.
        cg_iterations: at most.
    """

    curvature: Curvature = "gauss_newton"
    curvature_samples: PositiveCount = 2000
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    cg_iterations: PositiveCount = 500


class NetCurvature:
    """H + λ I, H the curvature of a net's mean loss in its trainable parameters, with normalisation in eval mode.

    Args:
        view: of the net.
        samples: that the loss is the mean over, x [n, ...] and y int64 [n].
        damping: λ.
        settings: of the systems.
        chunk: samples that a product takes at once.

    Source: Schraudolph 2002 for products with the Gauss-Newton matrix; Pearlmutter 1994 for those with the Hessian.
    """

    def __init__(
        self, view: View, samples: Batch, damping: float, settings: CurvatureSettings, *, chunk: int = 500
    ) -> None:
        self._view = view
        self._params = view.trainable
        self._damping = damping
        self._settings = settings
        self._parts = [samples.select(slice(i, i + chunk)) for i in range(0, len(samples), chunk)]
        self._samples = len(samples)

    def product(self, along: Tensor) -> Tensor:
        """(H + λ I) v of a vector over the trainable parameters, [p].

        Raises:
            ModelError: for a net whose output is no tensor, by "gauss_newton".
        """
        direction = unflatten(along, self._params)
        one = self._gauss_newton if self._settings.curvature == "gauss_newton" else self._hessian
        found = self._damping * along
        for part in self._parts:
            found = found + len(part) / self._samples * flatten(one(part, direction))
        return found

    def solve(self, right: Mapping[str, Tensor]) -> Tensors:
        """(H + λ I)⁻¹ B, by the name of each trainable parameter.

        Raises:
            ModelError: where the matrix is not positive definite, and if conjugate gradients do not get there.
        """

        def product(along: Tensor) -> Tensor:
            found = self.product(along)
            if not float(along @ found) > 0:
                raise ModelError(
                    f"curvature of a net: got a direction along which it is not positive with damping "
                    f"{self._damping:g}, wanted a positive definite matrix: raise damping, or set curvature = "
                    '"gauss_newton"'
                )
            return found

        vector = flatten({name: right[name] for name in self._params})
        found = iterative_solve(
            product, vector, tolerance=self._settings.cg_tolerance, max_iterations=self._settings.cg_iterations
        )
        return unflatten(found, self._params)

    def _gauss_newton(self, part: Batch, direction: Tensors) -> Tensors:
        """Of the mean loss of a part."""

        def outputs(params: Tensors) -> Tensor:
            found = self._view.forward(part.x, part.y, params=params)
            if not isinstance(found, Tensor):
                raise ModelError(
                    f"curvature of a net: got an output of type {type(found).__name__}, wanted one tensor: set "
                    'curvature = "hessian"'
                )
            return found

        def slope(at: Tensor) -> Tensor:
            found: Tensor = torch.func.grad(lambda out: self._view.losses(out, part.x, part.y).mean())(at)
            return found

        there = torch.func.jvp(outputs, (self._params,), (direction,))
        bent = torch.func.jvp(slope, (there[0].detach(),), (there[1].detach(),))[1]
        found: Tensors = torch.func.vjp(outputs, self._params)[1](bent.detach())[0]
        return {name: value.detach() for name, value in found.items()}

    def _hessian(self, part: Batch, direction: Tensors) -> Tensors:
        """Of the mean loss of a part."""

        def loss(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
            return self._view.loss(x, y, params=params)

        return ForwardOverReverse().hessian_vector_product(loss, self._params, part, direction)
