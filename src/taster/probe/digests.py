"""Samples that are the same, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from taster.core.batch import Batch
from taster.core.joining import joined_batches
from taster.core.nested import is_label, tensors_in
from taster.errors import BatchError


def digests(batch: Batch) -> list[bytes]:
    """A digest of each sample, without its labels: of dtypes, shapes and bytes."""
    parts = [tensor for path, tensor in tensors_in(batch.x, "x") if not is_label(path)]
    if batch.batch_dim == 0 and parts and all(part.dim() and len(part) == len(batch) for part in parts):
        rows = [part.detach().cpu().contiguous() for part in parts]
        return [_digest(tuple(row[i] for row in rows)) for i in range(len(batch))]
    return [_digest(tuple(t.detach().cpu() for t in _sample(batch, i))) for i in range(len(batch))]


def training_digests(train: Any, stage: str) -> set[bytes]:
    """The digests of training data: a `Batch`, a data loader, or a data set.

    Raises:
        BatchError: for anything else.
    """
    found: set[bytes] = set()
    for part in _batches(train, stage):
        found.update(digests(part))
    return found


def first_of(train: Any, stage: str) -> Batch:
    """Some of the training data: what comes first."""
    return next(_batches(train, stage))


def joined_parts(data: Any, stage: str) -> Batch:
    """All of a `Batch`, a data loader or a data set as one batch, unchecked.

    Raises:
        BatchError: for anything else.
    """
    return data if isinstance(data, Batch) else joined_batches(list(_batches(data, stage)), stage)


def _sample(batch: Batch, index: int) -> list[Tensor]:
    one = batch.select(torch.tensor([index]))
    return [tensor for path, tensor in tensors_in(one.x, "x") if not is_label(path)]


def _digest(tensors: tuple[Tensor, ...]) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()


def _batches(train: Any, stage: str) -> Iterator[Batch]:
    if isinstance(train, Batch):
        yield train
        return
    if not isinstance(train, DataLoader):
        if isinstance(train, (Tensor, str, bytes)) or not (hasattr(train, "__getitem__") and hasattr(train, "__len__")):
            raise BatchError(
                f"{stage}: got a {type(train).__name__} as data, wanted a taster.Batch(x, y), a data set or a "
                "data loader"
            )
        train = DataLoader(train, batch_size=256)
    for item in train:
        if isinstance(item, Batch):
            yield item
        elif isinstance(item, (list, tuple)) and len(item) == 2 and not hasattr(item, "_fields"):
            yield Batch(item[0], item[1])
        else:
            yield Batch(item)
