"""Which base models a sample is trained on, decided by nothing but the sample itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.errors import DataError
from taster.utils.seeds import generator

_DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Partition:
    """A training set divided into buckets, and the base models that each bucket feeds.

    Attributes:
        members: for each of the m base models the positions of its samples in the training set, int64 [n_i], in an
            order that depends on what the samples are and not on where they stood.
        bases: int64 [b, d], for each of the b buckets the d models that are trained on its samples. Whoever inserts
            or removes one sample changes the d models of one bucket and no other.
    """

    members: Sequence[Tensor]
    bases: Tensor


def content_digests(x: Tensor, y: Tensor | None = None) -> list[bytes]:
    """A digest of each sample, 16 bytes: equal for equal samples, wherever they stand.

    Args:
        x: samples [n, ...]; shape and type count as well as the numbers.
        y: labels [n], int64, to be part of it. None: the digest is that of the sample without its label.
    """
    kind = f"{x.dtype}{list(x.shape[1:])}".encode()
    rows = x.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    labels: Sequence[bytes] = [b""] * len(x) if y is None else [str(label).encode() + b";" for label in y.tolist()]
    return [
        hashlib.blake2b(label + kind + row.data, digest_size=_DIGEST_BYTES).digest()
        for row, label in zip(rows, labels, strict=True)
    ]


def hash_buckets(x: Tensor, y: Tensor | None, buckets: int) -> Tensor:
    """The bucket that the hash of each sample gives it, int64 [n], whatever other samples there are.

    Args:
        x: samples [n, ...].
        y: labels [n], int64, to be hashed too. None: without them.
        buckets: how many there are.

    Source: Levine and Feizi 2021 (h(t) mod k).
    """
    return torch.tensor([int.from_bytes(digest[:8], "big") % buckets for digest in content_digests(x, y)])


def content_order(x: Tensor, y: Tensor) -> Tensor:
    """The positions of samples in an order that depends on what they are alone, int64 [n].

    Args:
        x: samples [n, ...].
        y: labels [n], int64.
    """
    return _in_content_order(content_digests(x), y)


def hash_partition(x: Tensor, y: Tensor, partitions: int, *, spread: int = 1, with_labels: bool = False) -> Partition:
    """Divides a training set by a hash of each sample.

    With a spread of 1 there are k models, each sample feeds one, and a model has 1/k of the samples on average. With
    a spread of d there are k d buckets and k d models; each bucket feeds d models, and a model has as many samples as
    before.

    Args:
        x: samples [n, ...].
        y: labels [n], int64.
        partitions: k.
        spread: d.
        with_labels: whether the label is hashed too. Without it a changed label stays in its bucket and so counts as
            one change; with it, as a removal and an insertion.

    Raises:
        DataError: if there are fewer samples than partitions.

    Source: Levine and Feizi 2021 (d = 1: the partition by a hash h(t) mod k, samples sorted within it);
    Wang, Levine and Feizi 2022 (the spread: as in their code the models of bucket h are h + s mod k d for d fixed
    random shifts s).
    """
    _check_enough(len(x), partitions)
    digests = content_digests(x)
    buckets = partitions * spread
    bucket = hash_buckets(x, y if with_labels else None, buckets)
    shifts = torch.randperm(buckets, generator=generator(buckets, "shifts of the spread"))[:spread]
    if spread == 1:
        shifts = torch.zeros(1, dtype=torch.int64)
    bases = (torch.arange(buckets)[:, None] + shifts) % buckets
    return Partition(_members(_in_content_order(digests, y), bucket, bases, buckets, x.device), bases)


def rank_partition(x: Tensor, y: Tensor, partitions: int) -> Partition:
    """Divides a training set by the rank of each sample among all, without regard to labels: parts of equal size.

    A changed label changes one model. An inserted or removed sample may move all samples behind it, so the certificate
    counts changed labels alone. Samples that are equal are told apart by their label.

    Args:
        x: samples [n, ...], or their features by a method that has seen no label.
        y: labels [n], int64.
        partitions: k.

    Raises:
        DataError: if there are fewer samples than partitions, or equal samples: a changed label could move those.

    Source: Levine and Feizi 2021 (SS-DPA: partition by the index in the sorted unlabelled set).
    """
    _check_enough(len(x), partitions)
    digests = content_digests(x)
    twice = len(digests) - len(set(digests))
    if twice:
        raise DataError(f"got {twice} samples that are equal to another, wanted each once: leave the others out")
    order = _in_content_order(digests, y)
    bucket = torch.empty(len(x), dtype=torch.int64)
    bucket[order] = torch.arange(len(x)) % partitions
    bases = torch.arange(partitions)[:, None]
    return Partition(_members(order, bucket, bases, partitions, x.device), bases)


def _check_enough(samples: int, partitions: int) -> None:
    if partitions > samples:
        raise DataError(f"got {samples} samples for {partitions} partitions, wanted at least one for each on average")


def _in_content_order(digests: Sequence[bytes], y: Tensor) -> Tensor:
    labels = y.tolist()
    return torch.tensor(sorted(range(len(digests)), key=lambda i: (digests[i], labels[i])), dtype=torch.int64)


def _members(order: Tensor, bucket: Tensor, bases: Tensor, models: int, device: torch.device) -> list[Tensor]:
    """The samples of each model: those of all buckets that feed it, in content order."""
    sample = order.repeat_interleave(bases.shape[1])  # each sample as often as it is used, still in content order
    model = bases[bucket[order]].flatten()
    by_model = model.argsort(stable=True)
    counts = torch.bincount(model, minlength=models).tolist()
    return [part.to(device) for part in torch.split(sample[by_model], counts)]
