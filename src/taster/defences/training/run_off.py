"""Run-off election: of the two classes with most votes, that wins which more models prefer to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.defences.training.certified_prediction import CertifiedPrediction
from taster.defences.training.vote_certificates import (
    bucket_sums,
    check_bases,
    fewest_buckets,
    margins,
    vote_counts,
)
from taster.errors import BatchError

_NEVER = torch.iinfo(torch.int64).max // 2


def votes_of(scores: Tensor) -> Tensor:
    """The class with the highest score, the smaller of several, int64 [n, m]. NaN, of a model that has diverged,
    counts as lower than any number.

    Args:
        scores: [n, m, classes].

    Raises:
        BatchError: for another shape.
    """
    return _numbers(scores).argmax(2)


def run_off_certificate(scores: Tensor, bases: Tensor) -> CertifiedPrediction:
    """The run-off election, with how many buckets may be poisoned without changing it.

    In the first round every model votes for its highest score; in the second each votes for that of the two classes
    with most votes to which it gives the higher score. Ties go to the smaller class in both. To elect another class,
    poison must either bring two others before the winner in the first round, or bring one other into the second round
    and win there; the radius is one less than what the cheaper of the two takes at least.

    Args:
        scores: [n, m, classes]. Only their order within a model matters.
        bases: int64 [b, d], the models that each bucket feeds: [m, 1] of 0 to m - 1 for Deep Partition Aggregation.

    Raises:
        BatchError: for other shapes and types, and for models that are not there.

    Source: Rezaei, Banihashem, Chegini and Feizi 2023 (the election) and their certificates, as
    `dpa_roe_certify.py` and `fa_roe_certify.py` of their code have them: CertR1 and CertR2. With d = 1 the conditions
    of the first round are in closed form what their dynamic program tabulates.
    """
    scores = _numbers(scores)
    n, models, classes = scores.shape
    check_bases(bases, models)
    votes = scores.argmax(2)
    counts = vote_counts(votes, classes)
    first = counts.argmax(1)
    second = counts.scatter(1, first[:, None], -1).argmax(1)
    for_first = _prefers(scores, first)  # [n, m, classes]
    row = torch.arange(n, device=scores.device)
    wins = 2 * for_first[row, :, second].sum(1)
    first_wins = (wins > models) | ((wins == models) & (first < second))
    label = first.where(first_wins, second)
    beaten = second.where(first_wins, first)
    if n == 0:
        return CertifiedPrediction(label, label.clone())
    out = _out_of_the_first_round(votes, counts, label, bases)
    lost = _lost_in_the_second(votes, counts, label, beaten, _prefers(scores, label), bases)
    return CertifiedPrediction(label, out.minimum(lost).clamp_max(len(bases) + 1) - 1)


def _numbers(scores: Tensor) -> Tensor:
    if scores.dim() != 3 or not scores.is_floating_point() or scores.shape[1] == 0 or scores.shape[2] < 2:
        raise BatchError(
            f"scores: got {list(scores.shape)} of {scores.dtype}, wanted floating point [n, models, classes], at least "
            "one model and two classes"
        )
    return scores.detach().masked_fill(scores.isnan(), -torch.inf)


def _prefers(scores: Tensor, label: Tensor) -> Tensor:
    """Whether each model would vote for a class in a second round against each other one, [n, m, classes]."""
    own = scores.gather(2, label[:, None, None].expand(-1, scores.shape[1], 1))
    smaller = label[:, None, None] < torch.arange(scores.shape[2], device=scores.device)
    return (own > scores) | ((own == scores) & smaller)


def _closing(votes: Tensor, behind: Tensor, target: int) -> Tensor:
    """By how much each model closes the distance of a class and `target` if it turns to `target`, [n, m]."""
    return 1 + (votes == behind[:, None]).short() - (votes == target).short()


def _out_of_the_first_round(votes: Tensor, counts: Tensor, label: Tensor, bases: Tensor) -> Tensor:
    """The fewest buckets that may bring two classes before `label`."""
    classes = counts.shape[1]
    ahead = margins(counts, label)
    alone = [
        fewest_buckets(ahead[:, c] + 1, bucket_sums(_closing(votes, label, c), bases)).where(label != c, _NEVER)
        for c in range(classes)
    ]
    fewest = torch.full_like(label, _NEVER)
    for a in range(classes):
        for b in range(a + 1, classes):
            # A model that turns to a or b closes both distances together by at most this much.
            closes = 2 * (votes == label[:, None]).short() - (votes == a).short() - (votes == b).short() + 1
            distance = (ahead[:, a] + 1).where(label != a, 0) + (ahead[:, b] + 1).where(label != b, 0)
            both = fewest_buckets(distance, bucket_sums(closes, bases))
            fewest = fewest.minimum(both.maximum(alone[a]).maximum(alone[b]))
    return fewest


def _lost_in_the_second(
    votes: Tensor, counts: Tensor, label: Tensor, beaten: Tensor, preferred: Tensor, bases: Tensor
) -> Tensor:
    """The fewest buckets that may bring another class into the second round and have it win there."""
    models, classes = preferred.shape[1:]
    ahead = margins(counts, beaten)
    fewest = torch.full_like(label, _NEVER)
    for c in range(classes):
        entering = fewest_buckets(
            (ahead[:, c] + 1).where(beaten != c, 0), bucket_sums(_closing(votes, beaten, c), bases)
        )
        own = preferred[:, :, c]
        distance = 2 * own.sum(1) - models + (c > label).long()
        winning = fewest_buckets(distance, bucket_sums(2 * own.short(), bases))
        fewest = fewest.minimum(entering.maximum(winning).where(label != c, _NEVER))
    return fewest
