"""Which side of each kink a forward pass takes, recorded once and held in the next.

A network of ReLUs and max-poolings is smooth but for its kinks. The derivatives that automatic differentiation gives
are those of the smooth piece around a point. Differences between two points see the kinks in between as well: each unit
that switches adds a jump, divided by the length of the difference, so that no length is good (on a trained ResNet-18
about one sign in seven comes out wrong at the best). With every unit held to the side it took at the first point the
function is smooth, and a plain difference is as good as automatic differentiation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class ActivationPatternError(RuntimeError):
    """A second pass did not go through the same kinks as the first."""


class ActivationPattern:
    """The sides taken by ReLU, leaky ReLU, ReLU6, hard tanh and max-pooling (adaptive too) in one forward pass.

    Other kinks (in a layer's own kernel, say) are not seen; differences are then merely less precise. An in-place
    activation is computed out of place.
    """

    def __init__(self) -> None:
        self._sides: list[tuple[_NonsmoothOp, Tensor]] = []

    def recording(self) -> AbstractContextManager[object]:
        """In this context the sides are written down, in place of any that were."""
        self._sides.clear()
        return _Recording(self._sides)

    def compact(self) -> None:
        """Keeps a byte for each unit where that is enough, for sides that wait while other passes need the memory."""
        self._sides[:] = [(kink, kink.compact(side)) for kink, side in self._sides]

    def replaying(self) -> AbstractContextManager[object]:
        """In this context each kink takes the side written down, in the order of the first pass.

        Raises (inside):
            ActivationPatternError: when the pass meets other kinks than the first did.
        """
        return _Replaying(self._sides)


_Call = Callable[..., Any]


@dataclass(frozen=True)
class _NonsmoothOp:
    """How one kind of kink is recorded and held.

    Attributes:
        record: of the function's own arguments: the output, and the side taken.
        hold: of the side and the function's own arguments: the output on that side.
        compact: the side in less memory, such that `hold` still takes it.
    """

    record: Callable[..., tuple[Tensor, Tensor]]
    hold: Callable[..., Tensor]
    compact: Callable[[Tensor], Tensor] = lambda side: side


def _record_relu(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    out = torch.relu(x)
    return out, out.detach()


def _hold_relu(side: Tensor, x: Tensor, *_: Any) -> Tensor:
    # One kernel for x where side > 0, else 0; differentiable in x.
    out: Tensor = torch.ops.aten.threshold_backward(x, side.to(x.dtype), 0)
    return out


def _record_leaky(x: Tensor, negative_slope: float = 0.01, *_: Any) -> tuple[Tensor, Tensor]:
    return functional.leaky_relu(x, negative_slope), x.detach() > 0


def _hold_leaky(side: Tensor, x: Tensor, negative_slope: float = 0.01, *_: Any) -> Tensor:
    return torch.where(side, x, negative_slope * x)


def _record_hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, *_: Any) -> tuple[Tensor, Tensor]:
    out = functional.hardtanh(x, min_val, max_val)
    return out, out.detach()


def _hold_hardtanh(side: Tensor, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, *_: Any) -> Tensor:
    return torch.where((side > min_val) & (side < max_val), x, side)


def _max_pool(pool: _Call, dimensions: int) -> _NonsmoothOp:
    """Pooling over so many last dimensions, which can tell the place of each maximum within them."""

    def record(x: Tensor, *window: Any, **options: Any) -> tuple[Tensor, Tensor]:
        out, places = pool(x, *window, return_indices=True, **options)
        return out, places

    def hold(places: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x.flatten(-dimensions).gather(-1, places.flatten(-dimensions)).reshape(places.shape)

    return _NonsmoothOp(record, hold)


_RELU = _NonsmoothOp(_record_relu, _hold_relu, lambda side: side > 0)
_RELU6 = _NonsmoothOp(
    lambda x, *_: _record_hardtanh(x, 0.0, 6.0), lambda side, x, *_: _hold_hardtanh(side, x, 0.0, 6.0)
)
_NONSMOOTH_OPS: Mapping[Any, _NonsmoothOp] = {
    **dict.fromkeys((functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _RELU),
    functional.leaky_relu: _NonsmoothOp(_record_leaky, _hold_leaky),
    functional.relu6: _RELU6,
    functional.hardtanh: _NonsmoothOp(_record_hardtanh, _hold_hardtanh),
    **dict.fromkeys((functional.max_pool1d, torch.max_pool1d), _max_pool(functional.max_pool1d, 1)),
    **dict.fromkeys((functional.max_pool2d, torch.max_pool2d), _max_pool(functional.max_pool2d, 2)),
    **dict.fromkeys((functional.max_pool3d, torch.max_pool3d), _max_pool(functional.max_pool3d, 3)),
    functional.adaptive_max_pool1d: _max_pool(functional.adaptive_max_pool1d, 1),
    functional.adaptive_max_pool2d: _max_pool(functional.adaptive_max_pool2d, 2),
    functional.adaptive_max_pool3d: _max_pool(functional.adaptive_max_pool3d, 3),
}


class _Interceptor(TorchFunctionMode, ABC):
    """Takes every call through a kink in hand."""

    def __torch_function__(
        self, func: _Call, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kink = None if kwargs.get("return_indices") else _NONSMOOTH_OPS.get(func)
        return func(*args, **kwargs) if kink is None else self._pass(kink, args, _named(kwargs))

    @abstractmethod
    def _pass(self, kink: _NonsmoothOp, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The output of the call."""


class _Recording(_Interceptor):
    def __init__(self, sides: list[tuple[_NonsmoothOp, Tensor]]) -> None:
        super().__init__()
        self._sides = sides

    def _pass(self, kink: _NonsmoothOp, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        out, side = kink.record(*args, **kwargs)
        self._sides.append((kink, side))
        return out


class _Replaying(_Interceptor):
    def __init__(self, sides: list[tuple[_NonsmoothOp, Tensor]]) -> None:
        super().__init__()
        self._sides = iter(sides)

    def _pass(self, kink: _NonsmoothOp, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        recorded, side = next(self._sides, (None, None))
        if recorded is not kink or side is None:
            raise ActivationPatternError("the first pass did not go through the same kink at this place")
        return kink.hold(side, *args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if error[0] is None and next(self._sides, None) is not None:
            raise ActivationPatternError("the first pass went through more kinks")


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Torch calls the first parameter `input` where it is given by name; in place or not is all the same here."""
    named = {key: value for key, value in kwargs.items() if key not in ("inplace", "return_indices")}
    if "input" in named:
        named["x"] = named.pop("input")
    return named
