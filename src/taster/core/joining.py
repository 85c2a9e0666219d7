"""Batches put together, as those of a data loader to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from taster.core.batch import Batch, BatchDim
from taster.core.nested import children, is_label, joined, rebuilt, rebuilt_list, tensors_in
from taster.errors import BatchError

_IGNORED = -100
"""What labels are padded by, as torch's and Transformers' losses ignore it."""


def joined_batches(parts: Sequence[Batch], stage: str) -> Batch:
    """Batches of the same structure as one.

    Sequences [n, length, ...] that a loader has padded batch by batch are padded to one length where there is an
    attention mask: whole-numbered labels by -100, everything else by zeros. What all samples share is that of the
    first batch, and has to be the same in all.

    Raises:
        BatchError: when structures or shapes differ.
    """
    return _Joining(parts, stage).batch()


class _Joining:
    def __init__(self, parts: Sequence[Batch], stage: str) -> None:
        self._parts = parts
        self._stage = stage
        paths = [path for path, _ in parts[0].tensors()]
        self._padded = any(path.split(".")[-1] == "attention_mask" for path in paths)

    def batch(self) -> Batch:
        first = self._parts[0]
        return Batch(
            self._joined([part.x for part in self._parts], "x"),
            self._joined([part.y for part in self._parts], "y"),
            batch_dim=first.batch_dim,
        )

    def _joined(self, values: Sequence[Any], path: str) -> Any:
        first, dim = values[0], self._parts[0].dim_of(path)
        if any(type(value) is not type(first) for value in values):
            raise BatchError(f"{self._stage}: got batches of different structure ({path} is not of one type)")
        if dim is None or first is None:
            return self._shared(values, path)
        if dim == "list":
            return rebuilt_list(first, [item for value in values for item in value])
        if isinstance(first, PackedSequence):
            rows = [row for value in values for row in unpack_sequence(value)]
            return pack_sequence(rows, enforce_sorted=False)
        if isinstance(first, Tensor):
            return self._rows(values, path, dim) if first.dim() else self._shared(values, path)
        return self._container(values, path)

    def _container(self, values: Sequence[Any], path: str) -> Any:
        found = [dict(children(value)) for value in values]
        if any(list(entry) != list(found[0]) for entry in found):
            raise BatchError(f"{self._stage}: got batches of different structure ({path} does not hold the same)")
        if found[0]:
            parts = {key: self._joined([entry[key] for entry in found], joined(path, key)) for key in found[0]}
            return rebuilt(values[0], parts)
        sizes = [len(part) for part in self._parts]
        if isinstance(values[0], (list, tuple)) and [len(value) for value in values] == sizes:
            return rebuilt_list(values[0], [item for value in values for item in value])
        return self._shared(values, path)

    def _shared(self, values: Sequence[Any], path: str) -> Any:
        """What all samples share."""
        if not all(_same(values[0], value) for value in values):
            raise BatchError(
                f"{self._stage}: got batches with different values of {path}, which all of their samples share; wanted "
                "one value, or one a sample"
            )
        return values[0]

    def _rows(self, values: Sequence[Tensor], path: str, dim: BatchDim) -> Tensor:
        assert isinstance(dim, int)
        rows = list(values)
        dim = dim % rows[0].dim()
        if self._padded and dim == 0:
            labels = is_label(path) and not rows[0].is_floating_point()
            rows = _padded(rows, _IGNORED if labels else 0)
        shapes = {(*row.shape[:dim], *row.shape[dim + 1 :]) for row in rows}
        if len(shapes) > 1:
            raise BatchError(
                f"{self._stage}: got batches with {path} of different shapes ({', '.join(map(str, sorted(shapes)))}), "
                "wanted all trusted samples padded to one length"
            )
        return torch.cat(rows, dim)


def _same(one: Any, other: Any) -> bool:
    first, second = dict(tensors_in(one)), dict(tensors_in(other))
    if first or second:
        return first.keys() == second.keys() and all(torch.equal(first[path], second[path]) for path in first)
    return bool(one == other)


def _padded(rows: list[Tensor], filler: int) -> list[Tensor]:
    """Rows [n, length, ...] of the same length."""
    if any(row.dim() < 2 for row in rows):
        return rows
    longest = max(row.shape[1] for row in rows)
    return [
        torch.cat([row, row.new_full((len(row), longest - row.shape[1], *row.shape[2:]), filler)], 1) for row in rows
    ]
