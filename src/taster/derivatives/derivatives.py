"""One object for all derivatives that crafting needs, computed in a chosen way and checked against the exact one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from taster.core.functional_model import autocast
from taster.core.types import Batch, Tensors
from taster.derivatives import autodiff as exact
from taster.derivatives.activation_pattern import ActivationPatternError
from taster.derivatives.algebra import Normalize, weighted_sum
from taster.derivatives.autodiff import Differentiator, LossFn
from taster.derivatives.method import DiffMethod
from taster.errors import TasterError

logger = logging.getLogger(__name__)

_R = TypeVar("_R", Tensor, Tensors)

MIN_SIGN_AGREEMENT = 0.95
"""Share of signs, weighted by the size of the exact derivative, that a way has to get right."""

_CHECKED_ON = 16
"""Samples that a way is held against the exact derivative with."""


class Derivatives:
    """Derivatives of a loss in one way.

    The first derivative of each kind is computed on a few samples in the exact way too. Where fewer signs agree than
    `LEAST_AGREEMENT`, or the way cannot differentiate the model at all, that kind is computed by double backward from
    then on, which `fallbacks` tells.

    Attributes:
        way: the one asked for.
        fallbacks: kinds of derivative computed by double backward instead, with the reason.
    """

    def __init__(self, method: DiffMethod | None = None) -> None:
        self.method = method or DiffMethod()
        self.fallbacks: dict[str, str] = {}
        self._passed: set[str] = set()
        self._chosen: Differentiator = self.method.differentiator()
        self._plain: Differentiator = exact.DoubleBackward()

    def gradient(self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch) -> Tensors:
        """∇_θ L(θ), by name."""
        return exact.gradient(self._at(loss), self._laid_out(params), self._laid_out_batch(batch))

    def mixed(
        self,
        loss: LossFn,
        params: Mapping[str, Tensor],
        terms: Sequence[tuple[float, Mapping[str, Tensor]]],
        normalize: Normalize = "none",
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """∇ₓ Σᵢ wᵢ inner(∇_θ L(x; θ), vᵢ) as a function of samples and labels; what they do not change is done here.

        Args:
            loss: L.
            params: θ.
            terms: the (wᵢ, vᵢ).
            normalize: how each inner product is taken.
        """
        towards = weighted_sum(terms, normalize)
        at, params_there, towards_there = self._at(loss), self._laid_out(params), self._laid_out(towards)
        kind = "mixed derivative" if normalize == "none" else f"mixed derivative, {normalize}"

        def chosen(batch: Batch) -> Tensor:
            found = self._chosen.mixed_derivative(at, params_there, batch, towards_there, normalize)
            return found.contiguous()

        def plain(batch: Batch) -> Tensor:
            return self._plain.mixed_derivative(loss, params, batch, towards, normalize)

        return lambda x, y: self._settled(kind, chosen, plain, Batch(x, y))

    def accumulation_direction(
        self, loss: LossFn, params: Mapping[str, Tensor], a: Batch, b: Batch, normalize: Normalize = "none"
    ) -> Tensors:
        """∇_θ inner(∇_θ L_a(θ), ∇_θ L_b(θ)), by name (Pang et al. 2021, G_t in Eq. 9)."""
        at, there = self._at(loss), self._laid_out(params)
        return self._settled(
            f"accumulation direction, {normalize}",
            lambda a, b: self._chosen.accumulation_direction(at, there, a, b, normalize),
            lambda a, b: self._plain.accumulation_direction(loss, params, a, b, normalize),
            a,
            b,
        )

    def hessian_vector_product(
        self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """∇²_θ L(θ) v, by name."""
        at, there, direction_there = self._at(loss), self._laid_out(params), self._laid_out(direction)
        return self._settled(
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
        """∇ₓ inner(v, ∇_θ inner(∇_θ L_a(θ), ∇_θ L_b(θ))) for the samples of b; always by automatic differentiation,
        as differences of differences lose too many digits."""
        return exact.accumulation_derivative(loss, params, a, b, direction, normalize, outer)

    def describe(self) -> str:
        """The way in words, with what fell back."""
        fallen = [f"{kind} by double_backward ({reason})" for kind, reason in self.fallbacks.items()]
        return "; ".join([str(self.method), *fallen])

    def _settled(self, kind: str, chosen: Callable[..., _R], plain: Callable[..., _R], *batches: Batch) -> _R:
        """The chosen one where it has passed its check, which is made at the first call; else the plain one."""
        laid_out = [self._laid_out_batch(batch) for batch in batches]
        if self.method == DiffMethod("double_backward"):
            return chosen(*laid_out)
        if kind not in self._passed and kind not in self.fallbacks:
            self._check(kind, chosen, plain, [_few(batch) for batch in batches])
        if kind in self._passed:
            try:
                return chosen(*laid_out)
            except ActivationPatternError as error:
                self._fall_back(kind, _in_words(error))
        return plain(*batches)

    def _check(self, kind: str, chosen: Callable[..., _R], plain: Callable[..., _R], few: list[Batch]) -> None:
        truth = plain(*few)
        try:
            share = sign_agreement(chosen(*[self._laid_out_batch(batch) for batch in few]), truth)
        except (TasterError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:  # so torch says that it cannot differentiate an operation
            self._fall_back(kind, _in_words(error))
            return
        if share >= MIN_SIGN_AGREEMENT:
            self._passed.add(kind)
        else:
            self._fall_back(kind, f"{100 * share:.0f} % of signs agreed")

    def _fall_back(self, kind: str, reason: str) -> None:
        logger.warning("%s: %s cannot be used, double_backward is: %s", kind, self.method, reason)
        self._passed.discard(kind)
        self.fallbacks[kind] = reason

    def _at(self, loss: LossFn) -> LossFn:
        """The loss in this way's precision."""
        if self.method.precision == "float32":
            return loss

        def at(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
            with autocast(x.device, self.method.precision):
                return loss(params, x, y).float()

        return at

    def _laid_out(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return (
            {name: _channels_last(tensor) for name, tensor in tensors.items()} if self.method.channels_last else tensors
        )

    def _laid_out_batch(self, batch: Batch) -> Batch:
        return Batch(_channels_last(batch.x), batch.y, batch.loss_weight) if self.method.channels_last else batch


def sign_agreement(found: Tensor | Tensors, truth: Tensor | Tensors) -> float:
    """Share of signs that agree, each weighted by the size of the true value; 1 where all true values are 0."""
    whole = right = 0.0
    for own, true in zip(_parts(found), _parts(truth), strict=True):
        sizes = true.abs()
        whole += float(sizes.sum())
        right += float(sizes[own.sign() == true.sign()].sum())
    return right / whole if whole else 1.0


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _few(batch: Batch) -> Batch:
    return Batch(batch.x[:_CHECKED_ON], batch.y[:_CHECKED_ON], batch.loss_weight)


def _parts(found: Tensor | Tensors) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found.values())


def _in_words(error: RuntimeError) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
