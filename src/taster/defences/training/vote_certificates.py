"""Plurality votes, and how many changed samples cannot change them.

Every function here sees votes alone, whatever cast them. Ties go to the smaller class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taster.defences.training.certified_prediction import CertifiedPrediction
from taster.errors import BatchError, LabelError


def vote_counts(votes: Tensor, classes: int) -> Tensor:
    """Votes for each class, int64 [n, classes].

    Args:
        votes: the class that each of m models votes for, int64 [n, m].
        classes: number of classes, at least 2.

    Raises:
        BatchError: for other shapes and types, no model, or fewer than two classes.
        LabelError: for votes outside of the classes.
    """
    if votes.dim() != 2 or votes.dtype != torch.int64 or votes.shape[1] == 0:
        raise BatchError(f"votes: got {list(votes.shape)} of {votes.dtype}, wanted int64 [n, m] of at least one model")
    if classes < 2:
        raise BatchError(f"classes: got {classes}, wanted at least 2: with one there is nothing to vote on")
    if votes.numel() and not 0 <= int(votes.min()) <= int(votes.max()) < classes:
        raise LabelError(f"got votes from {int(votes.min())} to {int(votes.max())}, wanted 0 to {classes - 1}")
    counts = votes.new_zeros(len(votes), classes)
    return counts.scatter_add_(1, votes, torch.ones_like(votes))


def plurality_certificate(votes: Tensor, classes: int) -> CertifiedPrediction:
    """The plurality vote, with how many models may change their vote to anything without changing it.

    The radius is floor((N_c - max over c' of (N_c' + [c' < c])) / 2). It is tight: some radius + 1 changed votes
    change the outcome. For Deep Partition Aggregation a sample is in one model, so the radius counts samples.

    Args:
        votes: int64 [n, m].
        classes: number of classes.

    Raises:
        BatchError, LabelError: as in `vote_counts`.

    Source: Levine and Feizi 2021.
    """
    counts = vote_counts(votes, classes)
    label = counts.argmax(1)  # the first of several
    return CertifiedPrediction(label, margins(counts, label).min(1).values // 2)


def margins(counts: Tensor, label: Tensor) -> Tensor:
    """By how much a class is ahead of each other one, N_c - N_c' - [c' < c], int64 [n, classes].

    It is at least 0 where c comes before c' in the vote, below 0 where it comes after, and huge for c itself.

    Args:
        counts: int64 [n, classes].
        label: c, int64 [n].
    """
    other = torch.arange(counts.shape[1], device=counts.device)
    ahead = counts.gather(1, label[:, None]) - counts - (other < label[:, None]).long()
    return ahead.masked_fill(other == label[:, None], torch.iinfo(torch.int64).max // 2)


def finite_aggregation_certificate(votes: Tensor, classes: int, bases: Tensor) -> CertifiedPrediction:
    """The plurality vote, with how many buckets may be poisoned without changing it.

    A poisoned bucket changes the votes of all models that it feeds. Turning model i from its vote to c' closes the
    distance of c and c' by 1 + [f_i = c] - [f_i = c'], and a bucket closes it by the sum over its models; the
    radius is how many of the strongest buckets do not close it, the least over c'. Buckets that share models are
    counted as if they did not, so the true radius may be larger. With d = 1 it is that of `plurality_certificate`.

    Args:
        votes: int64 [n, m].
        classes: number of classes.
        bases: int64 [b, d], the models that each bucket feeds.

    Raises:
        BatchError, LabelError: as in `vote_counts`, and for models that are not there.

    Source: Wang, Levine and Feizi 2022, their certificate (as `FiniteAggregation_cerfity.py` of their code has it).
    """
    counts = vote_counts(votes, classes)
    check_bases(bases, votes.shape[1])
    label = counts.argmax(1)
    ahead = margins(counts, label)
    for_label = (votes == label[:, None]).short()
    radius = votes.new_full((len(votes),), len(bases))
    for other in range(classes):
        strength = bucket_sums(1 + for_label - (votes == other).short(), bases)
        needed = fewest_buckets(ahead[:, other] + 1, strength)
        radius = radius.minimum((needed - 1).where(label != other, radius))
    return CertifiedPrediction(label, radius)


def bucket_sums(closes: Tensor, bases: Tensor) -> Tensor:
    """The sum over the models that each bucket feeds, [n, b].

    Args:
        closes: [n, m], of each model.
        bases: int64 [b, d].
    """
    total = closes[:, bases[:, 0]]
    for column in bases.T[1:]:
        total = total + closes[:, column]
    return total


def fewest_buckets(distance: Tensor, strength: Tensor) -> Tensor:
    """How many of the strongest buckets it takes to close a distance, int64 [n]; one more than there are if all do not.

    Args:
        distance: int64 [n]; at 0 and below none is needed.
        strength: [n, b], none below 0.
    """
    reached = strength.sort(1, descending=True).values.cumsum(1)
    return ((reached < distance[:, None]).sum(1) + 1).where(distance > 0, 0)


def check_bases(bases: Tensor, models: int) -> None:
    """Refuses a spread that names models which are not there, or one twice for a bucket.

    Raises:
        BatchError: with what was wanted.
    """
    if bases.dim() != 2 or bases.dtype != torch.int64 or bases.numel() == 0:
        raise BatchError(f"bases: got {list(bases.shape)} of {bases.dtype}, wanted int64 [b, d], a row for each bucket")
    if not 0 <= int(bases.min()) <= int(bases.max()) < models:
        raise BatchError(f"bases: got models {int(bases.min())} to {int(bases.max())}, wanted 0 to {models - 1}")
    ordered = bases.sort(1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()) or len(torch.bincount(bases.flatten()).nonzero()) < models:
        raise BatchError("bases: got a bucket that feeds a model twice, or a model that none feeds; wanted neither")
