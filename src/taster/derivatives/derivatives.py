"""All derivatives that crafting needs, computed by a chosen method and checked against automatic differentiation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.functional_model import autocast
from taster.core.host import to_host
from taster.core.types import Tensors
from taster.derivatives import autodiff
from taster.derivatives.activation_pattern import ActivationPatternError
from taster.derivatives.algebra import Normalize, weighted_sum
from taster.derivatives.autodiff import Differentiator, LossFn
from taster.derivatives.finite_differences import FrozenActivationDifferences
from taster.derivatives.method import DiffMethod
from taster.errors import BatchError, ModelError, TasterError

_logger = logging.getLogger(__name__)

_R = TypeVar("_R", Tensor, Tensors)
_T = TypeVar("_T")

MIN_SIGN_AGREEMENT = 0.95
"""Fraction of signs, weighted by the size of the exact derivative, that a method has to get right."""

_CHECK_SIZE = 16
"""Number of samples on which a method is compared with double backward."""


class Derivatives:
    """Computes derivatives of a loss by one method.

    The first derivative of each kind is also computed by double backward on a few samples. If fewer signs agree than
    `MIN_SIGN_AGREEMENT`, or the method cannot differentiate the model at all, that kind is computed by double backward
    from then on and recorded in `fallbacks`.

    Args:
        method: the method. Default: finite differences in float32.

    Attributes:
        method: the chosen method.
        fallbacks: kinds of derivative that are computed by double backward instead, with the reason.

    Raises (by every derivative):
        BatchError: for a derivative with respect to samples that are not floating point, such as tokens.
        ModelError: if even double backward cannot differentiate the model, as for an operation without a second
            derivative.
    """

    def __init__(self, method: DiffMethod | None = None) -> None:
        self.method: DiffMethod = method or DiffMethod()
        self.fallbacks: dict[str, str] = {}
        self._passed: set[str] = set()
        self._chosen: Differentiator = self.method.differentiator()
        self._plain: Differentiator = autodiff.DoubleBackward()

    def gradient(self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch) -> Tensors:
        """∇_θ L(θ), by name."""
        return autodiff.gradient(self._at(loss), self._laid_out(params), self._laid_out_batch(batch))

    def mixed(
        self,
        loss: LossFn,
        params: Mapping[str, Tensor],
        terms: Sequence[tuple[float, Mapping[str, Tensor]]],
        normalize: Normalize = "none",
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """∇ₓ Σᵢ wᵢ inner(∇_θ L(x; θ), vᵢ) as a function of samples and labels.

        Args:
            loss: L.
            params: θ.
            terms: the pairs (wᵢ, vᵢ).
            normalize: of each inner product.
        """
        towards = weighted_sum(terms, normalize)
        at, params_there, towards_there = self._at(loss), self._laid_out(params), self._laid_out(towards)
        kind = "mixed derivative" if normalize == "none" else f"mixed derivative, {normalize}"

        def chosen(batch: Batch) -> Tensor:
            found = self._chosen.mixed_derivative(at, params_there, batch, towards_there, normalize)
            return found.contiguous()

        def plain(batch: Batch) -> Tensor:
            return self._plain.mixed_derivative(loss, params, batch, towards, normalize)

        def derivative(x: Tensor, y: Tensor) -> Tensor:
            _check_differentiable(x)
            return self._compute(kind, chosen, plain, Batch(x, y))

        return derivative

    def accumulation_direction(
        self, loss: LossFn, params: Mapping[str, Tensor], a: Batch, b: Batch, normalize: Normalize = "none"
    ) -> Tensors:
        """∇_θ inner(∇_θ L_a(θ), ∇_θ L_b(θ)), by name (Pang et al. 2021, G_t in Eq. 9)."""
        at, there = self._at(loss), self._laid_out(params)
        return self.without_waiting(
            lambda: self._compute(
                f"accumulation direction, {normalize}",
                lambda a, b: self._chosen.accumulation_direction(at, there, a, b, normalize),
                lambda a, b: self._plain.accumulation_direction(loss, params, a, b, normalize),
                a,
                b,
            )
        )

    def hessian_vector_product(
        self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """∇²_θ L(θ) v, by name."""
        at, there, direction_there = self._at(loss), self._laid_out(params), self._laid_out(direction)
        return self._compute(
            "Hessian-vector product",
            lambda batch: self._chosen.hessian_vector_product(at, there, batch, direction_there),
            lambda batch: self._plain.hessian_vector_product(loss, params, batch, direction),
            batch,
        )

    def accumulation_derivative(
        self,
        loss: LossFn,
        params: Mapping[str, Tensor],
        a: Batch,
        b: Batch,
        direction: Mapping[str, Tensor],
        normalize: Normalize = "none",
        outer: Normalize = "none",
    ) -> Tensor:
        """∇ₓ inner(v, ∇_θ inner(∇_θ L_a(θ), ∇_θ L_b(θ))) for the samples of b.

        Always computed by automatic differentiation, as differences of differences lose too many digits.
        """
        _check_differentiable(b.x)
        return _named(
            "third derivative",
            lambda: autodiff.accumulation_derivative(loss, params, a, b, direction, normalize, outer),
        )

    def without_waiting(self, compute: Callable[[], _T]) -> _T:
        """What a function returns that takes many derivatives, of which none waits for the device.

        Whether finite differences were as long as they should be is read at the end, once. Where one was not, the
        function is called again, with each looked at by itself: so it must give the same both times, random numbers and
        all.
        """
        if not isinstance(self._chosen, FrozenActivationDifferences):
            return compute()
        with self._chosen.deferred() as parts:
            found = compute()
        good = [each for part in parts for each in part]
        return found if not good or to_host(torch.stack(good).all())[0] else compute()

    def describe(self) -> str:
        """The method and its fallbacks in words."""
        fallen = [f"{kind} by double_backward ({reason})" for kind, reason in self.fallbacks.items()]
        return "; ".join([str(self.method), *fallen])

    def _compute(self, kind: str, chosen: Callable[..., _R], plain: Callable[..., _R], *batches: Batch) -> _R:
        """By the chosen method if it has passed its check, which is made at the first call; else by double backward."""
        laid_out = [self._laid_out_batch(check_tensors(batch, "derivatives")) for batch in batches]
        if self.method == DiffMethod("double_backward"):
            return _named(kind, lambda: chosen(*laid_out))
        if kind not in self._passed and kind not in self.fallbacks:
            self._check(kind, chosen, plain, [_few(batch) for batch in batches])
        if kind in self._passed:
            try:
                return chosen(*laid_out)
            except ActivationPatternError as error:
                self._fall_back(kind, _in_words(error))
        return _named(kind, lambda: plain(*batches))

    def _check(self, kind: str, chosen: Callable[..., _R], plain: Callable[..., _R], few: list[Batch]) -> None:
        truth = _named(kind, lambda: plain(*few))
        try:
            share = sign_agreement(chosen(*[self._laid_out_batch(batch) for batch in few]), truth)
        except (TasterError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:  # an operation that this method cannot differentiate
            self._fall_back(kind, _in_words(error))
            return
        if share >= MIN_SIGN_AGREEMENT:
            self._passed.add(kind)
        else:
            self._fall_back(kind, f"{100 * share:.0f} % of signs agreed")

    def _fall_back(self, kind: str, reason: str) -> None:
        _logger.warning("%s: %s cannot be used, double_backward is: %s", kind, self.method, reason)
        self._passed.discard(kind)
        self.fallbacks[kind] = reason

    def _at(self, loss: LossFn) -> LossFn:
        """The loss in this method's precision."""
        if self.method.precision == "float32":
            return loss

        def at(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
            with autocast(x.device, self.method.precision):
                return loss(params, x, y).float()

        return at

    def _laid_out(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not self.method.channels_last:
            return tensors
        return {name: _channels_last(tensor) for name, tensor in tensors.items()}

    def _laid_out_batch(self, batch: Batch) -> Batch:
        return Batch(_channels_last(batch.x), batch.y, batch.loss_weight) if self.method.channels_last else batch


def sign_agreement(found: Tensor | Tensors, truth: Tensor | Tensors) -> float:
    """Fraction of signs that agree, each weighted by the size of the true value; 1 if all true values are 0."""
    whole = right = 0.0
    for own, true in zip(_parts(found), _parts(truth), strict=True):
        sizes = true.abs()
        whole += float(sizes.sum())
        right += float(sizes[own.sign() == true.sign()].sum())
    return right / whole if whole else 1.0


def _check_differentiable(x: Tensor) -> None:
    if not x.is_floating_point():
        raise BatchError(
            f"got samples of {x.dtype}, which have no derivative; wanted floating point (an attack on a model of "
            "tokens can change labels or updates, not samples)"
        )


def _named(kind: str, compute: Callable[[], _R]) -> _R:
    """Computes a derivative by double backward, with an error of ours if torch cannot."""
    try:
        return compute()
    except (TasterError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:
        raise ModelError(
            f"{kind}: the model cannot be differentiated twice ({_in_words(error)}); wanted operations that have a "
            "second derivative (for recurrent layers on a GPU: torch.backends.cudnn.enabled = False)"
        ) from error


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _few(batch: Batch) -> Batch:
    return Batch(batch.x[:_CHECK_SIZE], batch.y[:_CHECK_SIZE], batch.loss_weight)


def _parts(found: Tensor | Tensors) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found.values())


def _in_words(error: RuntimeError) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
