"""A batch: samples, their labels, and where the samples lie in nested values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from taster.core.nested import children, joined, map_leaves, paths_in, rebuilt, rebuilt_list, tensors_in
from taster.errors import BatchError

BatchDim = int | None | Literal["list"]
"""Where a tensor's samples lie: along which dimension; None, for one value that all samples share; "list", for a list
with one entry a sample."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of samples, with its labels or with everything in one.

        Batch(x, y)                                          # samples and labels
        Batch({"input_ids": ids, "attention_mask": mask, "labels": labels})
        Batch({"series": series, "state": state}, y, batch_dim={"series": 1, "state": 1})
        Batch(images, boxes, batch_dim={"x": "list", "y": "list"})

    Attributes:
        x: samples, [n, ...]; a tensor, or tensors in dictionaries, lists, tuples, named tuples, dataclasses and packed
            sequences, n of each. Numbers, strings and tensors without a dimension belong to all samples. A list of n
            strings or numbers has one for each.
        y: labels, nested as x; None where x holds everything.
        loss_weight: factor on the batch's loss, the "loss scaling" of Pang et al. 2021, Tables 3 to 5: it stands for
            a contributor who can scale its own gradient. 1 for any honest batch.
        batch_dim: the dimension that the samples lie along where it is not the first: for all tensors, or by dotted
            path inside x; that of "x" and "y" themselves goes by these names.

    Raises:
        BatchError: when there are no samples, or not as many everywhere.
    """

    x: Any
    y: Any = None
    loss_weight: float = 1.0
    batch_dim: BatchDim | Mapping[str, BatchDim] = 0

    def __post_init__(self) -> None:
        self._check_names()
        size: int | None = None
        first = ""
        for path, count in self._counts():
            if size is None:
                size, first = count, path
            elif count != size:
                raise BatchError(
                    f"got {size} samples in {first} and {count} in {path}, wanted as many everywhere; where samples do "
                    'not lie along the first dimension, say so: Batch(..., batch_dim={"state": 1}), None for what all '
                    'samples share, "list" for a list with one entry a sample'
                )
        if size is None:
            raise BatchError(
                f"got {_described(self.x)} without a tensor of samples, wanted torch.Tensor with samples along the "
                "first dimension, or a container of such tensors"
            )
        if size == 0:
            raise BatchError("got an empty batch, wanted at least one sample with values")
        object.__setattr__(self, "_size", size)

    def __len__(self) -> int:
        size: int = self.__dict__["_size"]
        return size

    def __iter__(self) -> Iterator[Any]:
        """`x, y = batch`, as of a data loader's pair."""
        return iter((self.x, self.y))

    def __getitem__(self, place: int) -> Any:
        """x at 0 and y at 1, as of a data loader's pair; `select` is for samples."""
        return (self.x, self.y)[place]

    @property
    def data(self) -> Any:
        """What a `forward` of the user's own is called with: x where it holds everything, else this batch."""
        return self.x if self.y is None else self

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors with their paths, which begin with x or y."""
        yield from tensors_in(self.x, "x")
        yield from tensors_in(self.y, "y")

    def select(self, keep: Tensor | slice) -> Batch:
        """A batch of the samples selected by a boolean mask [n], an index or a slice.

        Raises:
            BatchError: when nothing is kept.
        """
        return replace(self, x=self._selected(self.x, "x", keep), y=self._selected(self.y, "y", keep))

    def to(self, device: torch.device | str) -> Batch:
        """A copy of the batch on another device."""

        def move(_: str, leaf: Any) -> Any:
            movable: Any = leaf if isinstance(leaf, (Tensor, PackedSequence)) else None
            return leaf if movable is None else movable.to(device)

        return replace(self, x=map_leaves(move, self.x), y=map_leaves(move, self.y))

    def dim_of(self, path: str) -> BatchDim:
        """Where the samples lie in the value at a path that begins with x or y: what `batch_dim` says of it, or of the
        container around it."""
        if not isinstance(self.batch_dim, Mapping):
            return self.batch_dim
        while True:
            inside = path.removeprefix("x.")
            if inside in self.batch_dim:
                return self.batch_dim[inside]
            if "." not in path:
                return 0
            path = path.rpartition(".")[0]

    def _check_names(self) -> None:
        """Raises BatchError for a name in `batch_dim` that nothing has."""
        if not isinstance(self.batch_dim, Mapping):
            return
        there = {path.removeprefix("x.") for part in ("x", "y") for path in paths_in(getattr(self, part), part)}
        unknown = [name for name in self.batch_dim if name not in there]
        if unknown:
            raise BatchError(
                f"batch_dim: got {', '.join(map(repr, unknown))}, wanted names of what is in the batch: "
                f"{', '.join(sorted(there))}"
            )

    def _counts(self) -> Iterator[tuple[str, int]]:
        """The number of samples that each part has."""
        for part, value in (("x", self.x), ("y", self.y)):
            yield from self._counts_in(value, part)

    def _counts_in(self, value: Any, path: str) -> Iterator[tuple[str, int]]:
        dim = self.dim_of(path)
        if dim is None or value is None:
            return
        if dim == "list":
            if not isinstance(value, (list, tuple)):
                raise BatchError(f'{path}: got {_described(value)}, wanted a list, as batch_dim says "list"')
            yield path, len(value)
        elif isinstance(value, PackedSequence):
            yield path, int(value.batch_sizes[0])
        elif isinstance(value, Tensor):
            yield from _tensor_count(value, path, dim)
        else:
            found = list(children(value))
            if not found and (path in ("x", "y") or hasattr(value, "__array__")):
                raise BatchError(f"{path}: got {_described(value)}, wanted a torch.Tensor, or a container of them")
            for key, item in found:
                yield from self._counts_in(item, joined(path, key))

    def _selected(self, value: Any, path: str, keep: Tensor | slice) -> Any:
        dim = self.dim_of(path)
        if dim is None or value is None:
            return value
        if dim == "list":
            return rebuilt_list(value, [value[i] for i in _positions(keep, len(self))])
        if isinstance(value, PackedSequence):
            padded, lengths = pad_packed_sequence(value, batch_first=True)
            chosen = torch.tensor(_positions(keep, len(self)))
            if len(chosen) == 0:
                raise BatchError("got an empty selection, wanted at least one sample")
            return pack_padded_sequence(padded[chosen], lengths[chosen], batch_first=True, enforce_sorted=False)
        if isinstance(value, Tensor):
            if value.dim() == 0:
                return value
            if isinstance(keep, Tensor) and keep.device != value.device:
                keep = keep.to(value.device)
            return value[(slice(None),) * (dim % value.dim()) + (keep,)]
        found = list(children(value))
        if found:
            return rebuilt(value, {key: self._selected(item, joined(path, key), keep) for key, item in found})
        if isinstance(value, (list, tuple)) and len(value) == len(self) and not hasattr(value, "_fields"):
            return rebuilt_list(value, [value[i] for i in _positions(keep, len(self))])
        return value


def check_tensors(batch: Batch, stage: str) -> Batch:
    """Checks that samples are one tensor and labels another: for stages that compute with them themselves.

    Raises:
        BatchError: for nested batches, and those without labels beside the samples.
    """
    if not isinstance(batch.x, Tensor) or not isinstance(batch.y, Tensor) or batch.batch_dim != 0:
        raise BatchError(
            f"{stage}: got samples that are {_described(batch.x)} and labels that are {_described(batch.y)}, wanted "
            "one tensor [n, ...] of each, which this stage computes with itself; probe_gate, metric_gate, "
            "retry_low_score_half and the loss alarm take nested batches"
        )
    return batch


def _tensor_count(value: Tensor, path: str, dim: int) -> Iterator[tuple[str, int]]:
    if value.layout is not torch.strided or value.is_nested:
        raise BatchError(f"{path}: got a sparse or nested tensor ({value.layout}), wanted a dense one: to_dense()")
    if value.dim() == 0:
        if path in ("x", "y"):
            raise BatchError(f"{path}: got a single number, wanted a batch with samples along the first dimension")
        return  # one number that all samples share
    if not -value.dim() <= dim < value.dim():
        raise BatchError(f"{path}: got a tensor {list(value.shape)}, which has no dimension {dim} (batch_dim)")
    if value.numel() == 0 and path in ("x", "y"):
        raise BatchError(f"{path}: got an empty batch, {list(value.shape)}, wanted at least one sample with values")
    yield path, value.shape[dim]


def _positions(keep: Tensor | slice, size: int) -> list[int]:
    if isinstance(keep, slice):
        return list(range(size))[keep]
    found: list[int] = (keep.nonzero().flatten() if keep.dtype == torch.bool else keep).tolist()
    return found


def _described(value: Any) -> str:
    return type(value).__name__
