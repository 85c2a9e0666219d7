"""Vector algebra of many tensors: as one matrix on a GPU, one by one on a CPU.

On a GPU a launch costs more than the arithmetic of most tensors, so that norms and products of all of them take one. On
a CPU nothing is launched, and copies into a matrix take twice as long as all the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from taster.core.types import Tensors

WIDTH = 1024
"""Elements of a row. A longer row adds more in float32, a shorter one makes more rows to add up."""

_Place = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape of a tensor, and its dimensions in the order in which they lie in memory."""


class Layout(Protocol):
    """How tensors are held for the algebra; all of it is differentiable, any number of times."""

    def load(self, tensors: Mapping[str, Tensor]) -> Any:
        """Tensors of these shapes, held in this way."""

    def unload(self, held: Any, like: Mapping[str, Tensor]) -> Tensors:
        """What is held as tensors of these names."""

    def products(self, a: Any, b: Any) -> Tensor:
        """The inner product of each tensor with its counterpart, [tensors]."""

    def scaled(self, a: Any, values: Tensor) -> Any:
        """Each tensor times its number of [tensors]."""

    def added(self, a: Any, b: Any, values: Tensor) -> Any:
        """a, and of b each tensor times its number of [tensors]."""


def layout_for(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout that is fastest where the tensors are."""
    on_host = all(tensor.device.type == "cpu" for tensor in tensors.values())
    return TensorLayout() if on_host else RowLayout.of(tensors)


class TensorLayout:
    """Tensors one by one, as a list."""

    def load(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors themselves."""
        return list(tensors.values())

    def unload(self, held: list[Tensor], like: Mapping[str, Tensor]) -> Tensors:
        """By name."""
        return dict(zip(like, held, strict=True))

    def products(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """One sum for each."""
        return torch.stack([(own * other).sum() for own, other in zip(a, b, strict=True)])

    def scaled(self, a: list[Tensor], values: Tensor) -> list[Tensor]:
        """One product for each."""
        return [own * value for own, value in zip(a, values.unbind(), strict=True)]

    def added(self, a: list[Tensor], b: list[Tensor], values: Tensor) -> list[Tensor]:
        """One sum for each."""
        return [torch.addcmul(own, *term) for own, *term in zip(a, b, values.unbind(), strict=True)]


class RowLayout:
    """Where tensors lie in a matrix [rows, WIDTH] whose rows each belong to one of them.

    A tensor's elements follow each other in the order in which they lie in memory, from the beginning of a row on; what
    its last row has left is 0.

    Args:
        places: shapes and orders, by tensor.
        device: of the tensors.
    """

    def __init__(self, places: tuple[_Place, ...], device: torch.device) -> None:
        self._places = places
        sizes = [torch.Size(shape).numel() for shape, _ in places]
        counts = [-(-size // WIDTH) for size in sizes]
        ends = list(accumulate(count * WIDTH for count in counts))
        self._spans = list(zip([0, *ends], sizes, ends, strict=False))
        owner = torch.repeat_interleave(torch.arange(len(places)), torch.tensor(counts, dtype=torch.int64))
        self._owner = owner.to(device)

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> RowLayout:
        """The layout for tensors of these shapes, in the order in which they lie in memory."""
        places = tuple((tuple(tensor.shape), _order(tensor)) for tensor in tensors.values())
        return _layout(places, next((tensor.device for tensor in tensors.values()), torch.device("cpu")))

    def load(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """As a matrix, copied."""
        values = list(tensors.values())
        zeros = values[0].new_zeros(WIDTH)
        parts = []
        for value, (_, order), (start, size, end) in zip(values, self._places, self._spans, strict=True):
            parts += [value.permute(order).reshape(-1), zeros[: end - start - size]]
        return torch.cat(parts).view(-1, WIDTH)

    def unload(self, held: Tensor, like: Mapping[str, Tensor]) -> Tensors:
        """Views of the matrix, in the memory order of the layout."""
        vector, found = held.view(-1), {}
        for (name, value), (shape, order), (start, size, _) in zip(
            like.items(), self._places, self._spans, strict=True
        ):
            part = vector.narrow(0, start, size).view([shape[place] for place in order])
            back = sorted(range(len(order)), key=order.__getitem__)
            found[name] = part.permute(back).to(value.dtype)
        return found

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """By rows, and those of a tensor added up in float64."""
        rows = torch.einsum("rw,rw->r", a, b)
        found = torch.zeros(len(self._places), dtype=torch.float64, device=rows.device)
        return found.index_add(0, self._owner, rows.double()).to(rows.dtype)

    def scaled(self, a: Tensor, values: Tensor) -> Tensor:
        """Each row times the number of its tensor."""
        return a * values.index_select(0, self._owner)[:, None]

    def added(self, a: Tensor, b: Tensor, values: Tensor) -> Tensor:
        """At once."""
        return torch.addcmul(a, b, values.index_select(0, self._owner)[:, None])


@lru_cache(maxsize=16)
def _layout(places: tuple[_Place, ...], device: torch.device) -> RowLayout:
    return RowLayout(places, device)


def _order(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions from the outermost in memory to the innermost, those of one element where they stand."""
    if tensor.is_contiguous():
        return tuple(range(tensor.dim()))
    strides = tensor.stride()
    return tuple(sorted(range(tensor.dim()), key=lambda place: (-strides[place], place)))
