"""A support vector machine with a kernel, and how its decisions depend on one of its training samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

KernelName = Literal["linear", "rbf"]

_AT_BOUND = 1e-9
"""Relative to C: a dual variable nearer to 0 or C than this is there."""

_SLACK = 1e-9
"""By how much a margin may be missed."""

_CORRECTIONS = 20
"""Of the set of margin support vectors, when a solution is refined."""


@dataclass(frozen=True)
class Kernel:
    """K(a, b) = ⟨a, b⟩ ("linear") or exp(−γ ‖a − b‖²) ("rbf").

    Attributes:
        name: of the kernel.
        gamma: γ.
    """

    name: KernelName
    gamma: float = 1.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Of samples [n, d] and [m, d], [n, m]."""
        if self.name == "linear":
            return a @ b.T
        return torch.exp(-self.gamma * torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square())

    def slope(self, x: Tensor, points: Tensor, factors: Tensor) -> Tensor:
        """∂/∂x Σⱼ fⱼ K(x, pⱼ) for x [d], points [n, d] that do not move, and factors [n]; [d]."""
        if self.name == "linear":
            return factors @ points
        scaled = factors * self(x[None], points)[0]
        return -2 * self.gamma * (scaled.sum() * x - scaled @ points)

    def slope_of_self(self, x: Tensor) -> Tensor:
        """d/dx K(x, x), [d]."""
        return 2 * x if self.name == "linear" else torch.zeros_like(x)


@dataclass(frozen=True, eq=False)
class SupportVectorMachine:
    """f(x) = Σᵢ αᵢ sᵢ K(xᵢ, x) + b, the minimum of ½ ‖f‖² + C Σᵢ max(0, 1 − sᵢ f(xᵢ)).

    Attributes:
        kernel: K.
        c: C, the largest α.
        x: samples, [n, d].
        sign: s, −1 or 1, [n].
        gram: K of the samples, [n, n].
        alpha: α, [n].
        bias: b.
    """

    kernel: Kernel
    c: float
    x: Tensor
    sign: Tensor
    gram: Tensor
    alpha: Tensor
    bias: float

    @property
    def margin(self) -> Tensor:
        """Which samples are margin support vectors, 0 < α < C, bool [n]."""
        return (self.alpha > _AT_BOUND * self.c) & (self.alpha < (1 - _AT_BOUND) * self.c)

    def decisions(self, x: Tensor) -> Tensor:
        """f of samples [m, d], [m]."""
        return self.kernel(x, self.x) @ (self.alpha * self.sign) + self.bias

    def hinge_loss(self, x: Tensor, sign: Tensor) -> float:
        """Mean hinge loss of samples [m, d] under signs [m]."""
        return float((1 - sign * self.decisions(x)).clamp_min(0).mean())

    def margin_system(self, inside: Tensor) -> Tensor:
        """The matrix of (Q α)ₛ + sₛ b = 1 and Σ sᵢ αᵢ = 0 in α of some samples [k] and b, [k + 1, k + 1]."""
        k, own = len(inside), self.sign[inside]
        system = self.gram.new_zeros(k + 1, k + 1)
        system[:k, :k] = own[:, None] * own * self.gram[inside][:, inside]
        system[:k, k] = system[k, :k] = own
        return system

    def hinge_loss_slope(self, row: int, x: Tensor, sign: Tensor) -> Tensor:
        """∂ `hinge_loss` / ∂ x_row, [d], through the optimality conditions of the dual.

        While no sample changes between margin, error and reserve, (Q α)ₛ + sₛ b = 1 for margin support vectors s and
        Σ sᵢ αᵢ = 0; the α of the others stay.

        Args:
            row: of the training sample.
            x: validation samples, [m, d].
            sign: theirs, [m].

        Source: Biggio et al. 2012, Eq. 10, in adjoint form, and also for a sample that is a margin support vector
            itself.
        """
        own, alpha, moved = self.sign, self.alpha, self.x[row]
        short = 1 - sign * self.decisions(x)
        outer = -sign * (short > 0).to(sign) / len(x)  # ∂F / ∂f
        inside = self.margin.nonzero().flatten()
        k = len(inside)
        right = torch.cat([own[inside] * (self.kernel(self.x[inside], x) @ outer), outer.sum()[None]])
        system = self.margin_system(inside)
        # Singular where margin support vectors are affinely dependent, or where there is none: then the decisions are
        # what counts, and those that the least solution has.
        adjoint = torch.zeros_like(alpha)
        adjoint[inside] = (torch.linalg.pinv(system, hermitian=True) @ right)[:k]
        through = -adjoint * own * own[row] * alpha[row]
        itself = right.new_zeros(())
        if bool(self.margin[row]):
            through = through - adjoint[row] * own[row] * own * alpha
            itself = -adjoint[row] * alpha[row]
        through[row] = 0
        return (
            self.kernel.slope(moved, x, outer * alpha[row] * own[row])
            + self.kernel.slope(moved, self.x, through)
            + itself * self.kernel.slope_of_self(moved)
        )


def train_svm(
    kernel: Kernel,
    c: float,
    x: Tensor,
    sign: Tensor,
    *,
    gram: Tensor | None = None,
    near: SupportVectorMachine | None = None,
    tolerance: float = 1e-6,
) -> SupportVectorMachine:
    """Trains by scikit-learn's SVC, and refines what it found.

    SVC computes with kernels in single precision. Where its division into margin support vectors, those at C and those
    at 0 proves right, or is nearly so, α and b are solved for again in float64.

    Args:
        kernel: K.
        c: C, the weight of the hinge losses.
        x: samples, float64 [n, d].
        sign: −1 or 1, both there, [n].
        gram: K of the samples, [n, n], if it is known.
        near: a machine trained on nearly the same samples under the same signs. If its division is nearly right, SVC is
            not needed.
        tolerance: of the solver's stopping criterion.
    """
    gram = kernel(x, x) if gram is None else gram
    if near is not None:
        found = _refined(replace(near, x=x, gram=gram))
        if found is not None:
            return found
    from sklearn.svm import SVC  # a second to import, and only needed here

    solver = SVC(C=c, kernel="precomputed", tol=tolerance)
    solver.fit(gram.cpu().numpy(), sign.cpu().numpy())
    alpha = torch.zeros_like(sign)
    support = torch.from_numpy(solver.support_).long()
    alpha[support] = torch.from_numpy(solver.dual_coef_[0]).to(alpha) * sign[support]
    rough = SupportVectorMachine(kernel, c, x, sign, gram, alpha, float(solver.intercept_[0]))
    return _refined(rough) or rough


def _refined(rough: SupportVectorMachine) -> SupportVectorMachine | None:
    """The solution in float64, by an active set that begins as a rough solution's; None if that gets nowhere."""
    sign, gram, c = rough.sign, rough.gram, rough.c
    inside, top = rough.margin, rough.alpha >= (1 - _AT_BOUND) * c
    for _ in range(_CORRECTIONS):
        S = inside.nonzero().flatten()
        k = len(S)
        if k == 0:
            return None
        fixed = c * sign * top
        right = torch.cat([1 - sign[S] * (gram[S] @ fixed), -fixed.sum()[None]])
        solved = torch.linalg.pinv(rough.margin_system(S), hermitian=True) @ right
        alpha = c * top.to(sign)
        alpha[S] = solved[:k]
        bias = float(solved[k])
        slack = sign * (gram @ (alpha * sign) + bias) - 1
        low, high = inside & (alpha < 0), inside & (alpha > c)
        entering = (top & (slack > _SLACK)) | (~top & ~inside & (slack < -_SLACK))
        if not bool((low | high | entering).any()):
            # Where the system is singular, its least solution need not be one.
            if float(slack[S].abs().max()) > _SLACK or abs(float((alpha * sign).sum())) > _SLACK * c * len(sign):
                return None
            return SupportVectorMachine(rough.kernel, c, rough.x, sign, gram, alpha, bias)
        inside = (inside & ~low & ~high) | entering
        top = (top & ~entering) | high
    return None
