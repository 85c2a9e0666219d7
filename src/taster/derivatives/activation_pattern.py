"""The activation pattern of a forward pass, recorded once and replayed in the next.

A network of ReLUs and max-poolings is piecewise smooth. Automatic differentiation gives the derivatives of the smooth
piece around a point. A difference between two points also contains the jumps of all units that switch in between,
divided by the length of the difference, so that no length is good (on a trained ResNet-18 at best about one sign in
seven is wrong). With the activation pattern of the first point held fixed the function is smooth, and a difference is
as accurate as automatic differentiation.
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
    """A second pass did not go through the same nonsmooth operations as the first."""


class ActivationPattern:
    """The sides taken by ReLU, leaky ReLU, ReLU6, hard tanh and max-pooling (also adaptive) in one forward pass.

    Other nonsmooth operations, such as those inside of a fused kernel, are not recorded; differences are then less
    accurate. In-place activations are computed out of place.
    """

    def __init__(self) -> None:
        self._sides: list[tuple[_NonsmoothOp, Tensor]] = []

    def recording(self) -> AbstractContextManager[object]:
        """Context manager that records the sides, and discards those recorded before."""
        self._sides.clear()
        return _Recording(self._sides)

    def compact(self) -> None:
        """Reduces the recorded sides to a byte per unit if possible, to free memory for other passes."""
        self._sides[:] = [(op, op.compact(side)) for op, side in self._sides]

    def replaying(self) -> AbstractContextManager[object]:
        """Context manager in which each operation takes the recorded side, in the order of the first pass.

        Raises (inside):
            ActivationPatternError: if the pass goes through other operations than the first did.
        """
        return _Replaying(self._sides)


_Call = Callable[..., Any]


@dataclass(frozen=True)
class _NonsmoothOp:
    """How a nonsmooth operation is recorded and replayed.

    Attributes:
        record: computes the output and the side taken from the operation's arguments.
        hold: computes the output on a side from the side and the operation's arguments.
        compact: converts a side to less memory, in a form that `hold` accepts.
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
    """Pooling over a number of last dimensions, with indices of the maxima within them."""

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
    """Intercepts every call of a nonsmooth operation."""

    def __torch_function__(
        self, func: _Call, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        op = None if kwargs.get("return_indices") else _NONSMOOTH_OPS.get(func)
        return func(*args, **kwargs) if op is None else self._pass(op, args, _named(kwargs))

    @abstractmethod
    def _pass(self, op: _NonsmoothOp, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The output of the call."""


class _Recording(_Interceptor):
    def __init__(self, sides: list[tuple[_NonsmoothOp, Tensor]]) -> None:
        super().__init__()
        self._sides = sides

    def _pass(self, op: _NonsmoothOp, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        out, side = op.record(*args, **kwargs)
        self._sides.append((op, side))
        return out


class _Replaying(_Interceptor):
    def __init__(self, sides: list[tuple[_NonsmoothOp, Tensor]]) -> None:
        super().__init__()
        self._sides = iter(sides)

    def _pass(self, op: _NonsmoothOp, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        recorded, side = next(self._sides, (None, None))
        if recorded is not op or side is None:
            raise ActivationPatternError("the first pass did not go through the same operation at this point")
        return op.hold(side, *args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if error[0] is None and next(self._sides, None) is not None:
            raise ActivationPatternError("the first pass went through more operations")


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Torch names the first parameter `input`; whether a call is in place does not matter here."""
    named = {key: value for key, value in kwargs.items() if key not in ("inplace", "return_indices")}
    if "input" in named:
        named["x"] = named.pop("input")
    return named
