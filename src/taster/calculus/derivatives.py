"""One object for all derivatives that crafting needs, computed in a chosen way and checked against the exact one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from taster.calculus import exact, held
from taster.calculus.algebra import Normalise, combined
from taster.calculus.branches import BranchError
from taster.calculus.exact import LossAt
from taster.errors import SettingError
from taster.functional import Precision, autocast
from taster.types import Batch, Tensors

logger = logging.getLogger(__name__)

_R = TypeVar("_R")

Method = Literal["double_backward", "forward_over_reverse", "held_difference"]

LEAST_AGREEMENT = 0.95
"""Share of signs, weighted by the size of the exact derivative, that a way has to get right."""

_CHECKED_ON = 16
"""Samples that a way is held against the exact derivative with."""

_CHANGES: Mapping[Precision, float] = {"float32": 5e-3, "bfloat16": 0.25}
"""Share by which a gradient changes in a held difference; see `taster.calculus.held.Stride`."""


@dataclass(frozen=True)
class Way:
    """How derivatives are computed.

    Attributes:
        method: "double_backward" and "forward_over_reverse" are automatic differentiation; "held_difference" takes
            differences with every kink held.
        precision: of the forward passes and what is backpropagated through them.
        channels_last: whether images and kernels are laid out so meanwhile.
    """

    method: Method = "held_difference"
    precision: Precision = "float32"
    channels_last: bool = False

    @property
    def exact(self) -> bool:
        """Whether only the rounding of float32 lies between it and the true derivative."""
        return self.method != "held_difference" and self.precision == "float32"

    def __str__(self) -> str:
        words: list[str] = [self.method]
        words += [self.precision] if self.precision != "float32" else []
        words += ["channels_last"] if self.channels_last else []
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> Way:
        """From what `str` gives: a method, then "bfloat16" and "channels_last" where they apply.

        Raises:
            SettingError: for anything else.
        """
        method, *rest = text.split() or [""]
        if method in get_args(Method) and set(rest) <= {"bfloat16", "channels_last"}:
            precision: Precision = "bfloat16" if "bfloat16" in rest else "float32"
            way = cls(method, precision, "channels_last" in rest)  # type: ignore[arg-type]
            if way.method != "forward_over_reverse" or precision == "float32":
                return way
        raise SettingError(
            f"derivatives: got {text!r}, wanted one of {', '.join(get_args(Method))}, followed by bfloat16 (not for "
            "forward_over_reverse) or channels_last where they apply"
        )


class Derivatives:
    """Derivatives of a loss in one way.

    The first derivative of each kind is computed on a few samples in the exact way too. Where fewer signs agree than
    `LEAST_AGREEMENT`, or the way cannot differentiate the model at all, that kind is computed by double backward from
    then on, which `fallbacks` tells.

    Attributes:
        way: the one asked for.
        fallbacks: kinds of derivative computed by double backward instead, with the reason.
    """

    def __init__(self, way: Way | None = None) -> None:
        self.way = way or Way()
        self.fallbacks: dict[str, str] = {}
        self._passed: set[str] = set()
        change = _CHANGES[self.way.precision]
        self._mixed_stride = held.Stride(change)
        self._product_stride = held.Stride(change)
        self._direction_strides = (held.Stride(change), held.Stride(change))

    def gradient(self, loss: LossAt, params: Mapping[str, Tensor], batch: Batch) -> Tensors:
        """∇_θ L(θ), by name."""
        loss, params, batch = self._laid_out(loss, params, batch)
        return exact.gradient(loss, params, batch)

    def mixed(
        self,
        loss: LossAt,
        params: Mapping[str, Tensor],
        terms: Sequence[tuple[float, Mapping[str, Tensor]]],
        normalise: Normalise = "none",
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """∇ₓ Σᵢ wᵢ inner(∇_θ L(x; θ), vᵢ) as a function of samples and labels; what they do not change is done here.

        Args:
            loss: L.
            params: θ.
            terms: the (wᵢ, vᵢ).
            normalise: how each inner product is taken.
        """
        towards = combined(terms, normalise)
        laid_out = self._laid_out_tensors(params)
        towards_there = self._laid_out_tensors(towards)
        kind = "mixed derivative" if normalise == "none" else f"mixed derivative, {normalise}"

        def derivative(x: Tensor, y: Tensor) -> Tensor:
            def plain(x: Tensor, y: Tensor) -> Tensor:
                return exact.mixed_derivative(loss, params, x, y, towards, normalise)

            def fast(x: Tensor, y: Tensor) -> Tensor:
                x, at = self._laid_out_tensor(x), self._loss(loss)
                if self.way.method == "held_difference":
                    return held.mixed_derivative(
                        at, laid_out, x, y, towards_there, normalise, self._mixed_stride
                    ).contiguous()
                if self.way.method == "forward_over_reverse" and normalise == "none":
                    return exact.forward_mixed_derivative(at, laid_out, x, y, towards_there).contiguous()
                return exact.mixed_derivative(at, laid_out, x, y, towards_there, normalise).contiguous()

            few = slice(0, _CHECKED_ON)
            return self._settled(
                kind, lambda: fast(x, y), lambda: plain(x, y), lambda: (fast(x[few], y[few]), plain(x[few], y[few]))
            )

        return derivative

    def accumulation_direction(
        self, loss: LossAt, params: Mapping[str, Tensor], a: Batch, b: Batch, normalise: Normalise = "none"
    ) -> Tensors:
        """∇_θ inner(∇_θ L_a(θ), ∇_θ L_b(θ)), by name (Pang et al. 2021, G_t in Eq. 9)."""

        def plain(a: Batch, b: Batch) -> Tensors:
            return exact.accumulation_direction(loss, params, a, b, normalise)

        def fast(a: Batch, b: Batch) -> Tensors:
            at, there, a = self._laid_out(loss, params, a)
            b = self._laid_out_batch(b)
            if self.way.method == "held_difference":
                return held.accumulation_direction(at, there, a, b, normalise, self._direction_strides)
            if self.way.method == "forward_over_reverse":
                return exact.forward_accumulation_direction(at, there, a, b, normalise)
            return exact.accumulation_direction(at, there, a, b, normalise)

        return self._settled(
            f"accumulation direction, {normalise}",
            lambda: fast(a, b),
            lambda: plain(a, b),
            lambda: (_flat(fast(_few(a), _few(b))), _flat(plain(_few(a), _few(b)))),
        )

    def hessian_vector_product(
        self, loss: LossAt, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """∇²_θ L(θ) v, by name."""

        def plain(batch: Batch) -> Tensors:
            return exact.hessian_vector_product(loss, params, batch, direction)

        def fast(batch: Batch) -> Tensors:
            at, there, batch = self._laid_out(loss, params, batch)
            towards = self._laid_out_tensors(direction)
            if self.way.method == "held_difference":
                return held.hessian_vector_product(at, there, batch, towards, self._product_stride)
            if self.way.method == "forward_over_reverse":
                return exact.forward_hessian_vector_product(at, there, batch, towards)
            return exact.hessian_vector_product(at, there, batch, towards)

        return self._settled(
            "Hessian-vector product",
            lambda: fast(batch),
            lambda: plain(batch),
            lambda: (_flat(fast(_few(batch))), _flat(plain(_few(batch)))),
        )

    def accumulation_derivative(
        self,
        loss: LossAt,
        params: Mapping[str, Tensor],
        a: Batch,
        b: Batch,
        direction: Mapping[str, Tensor],
        normalise: Normalise = "none",
        outer: Normalise = "none",
    ) -> Tensor:
        """∇ₓ inner(v, ∇_θ inner(∇_θ L_a(θ), ∇_θ L_b(θ))) for the samples of b; always by automatic differentiation,
        as differences of differences lose too many digits."""
        return exact.accumulation_derivative(loss, params, a, b, direction, normalise, outer)

    def used(self) -> str:
        """The way in words, with what fell back."""
        fallen = [f"{kind} by double_backward ({reason})" for kind, reason in self.fallbacks.items()]
        return "; ".join([str(self.way), *fallen])

    def _settled(
        self,
        kind: str,
        fast: Callable[[], _R],
        plain: Callable[[], _R],
        both: Callable[[], tuple[Tensor, Tensor]],
    ) -> _R:
        """The fast one where it has passed its check, which is made at the first call; else the plain one."""
        if self.way == Way("double_backward"):
            return fast()
        if kind not in self._passed and kind not in self.fallbacks:
            try:
                share = agreement(*both())
                if share >= LEAST_AGREEMENT:
                    self._passed.add(kind)
                else:
                    self._fall_back(kind, f"{100 * share:.0f} % of signs agreed")
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError) as error:
                self._fall_back(kind, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        if kind in self._passed:
            try:
                return fast()
            except BranchError as error:
                self._fall_back(kind, f"{type(error).__name__}: {error}")
        return plain()

    def _fall_back(self, kind: str, reason: str) -> None:
        logger.warning("%s: %s cannot be used, double_backward is: %s", kind, self.way, reason)
        self._passed.discard(kind)
        self.fallbacks[kind] = reason

    def _loss(self, loss: LossAt) -> LossAt:
        if self.way.precision == "float32":
            return loss

        def at(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
            with autocast(x.device, self.way.precision):
                return loss(params, x, y).float()

        return at

    def _laid_out(
        self, loss: LossAt, params: Mapping[str, Tensor], batch: Batch
    ) -> tuple[LossAt, Mapping[str, Tensor], Batch]:
        return self._loss(loss), self._laid_out_tensors(params), self._laid_out_batch(batch)

    def _laid_out_batch(self, batch: Batch) -> Batch:
        return Batch(self._laid_out_tensor(batch.x), batch.y, batch.loss_scale) if self.way.channels_last else batch

    def _laid_out_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not self.way.channels_last:
            return tensors
        return {name: self._laid_out_tensor(tensor) for name, tensor in tensors.items()}

    def _laid_out_tensor(self, tensor: Tensor) -> Tensor:
        if self.way.channels_last and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor


def agreement(found: Tensor, truth: Tensor) -> float:
    """Share of signs that agree, each weighted by the size of the true value; 1 where all true values are 0."""
    whole = float(truth.abs().sum())
    if whole == 0:
        return 1.0
    right = found.sign() == truth.sign()
    return float(truth.abs()[right].sum()) / whole


def _few(batch: Batch) -> Batch:
    return Batch(batch.x[:_CHECKED_ON], batch.y[:_CHECKED_ON], batch.loss_scale)


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
