"""Each certificate against brute force: all poisonings within the radius, on few models."""

from __future__ import annotations

from itertools import combinations, permutations, product

import pytest
import torch
from torch import Tensor

from taster.defences.training import (
    CertifiedPrediction,
    finite_aggregation_certificate,
    plurality_certificate,
    run_off_certificate,
    votes_of,
)
from taster.defences.training.run_off import _out_of_the_first_round
from taster.defences.training.vote_certificates import margins, vote_counts
from taster.errors import BatchError, LabelError

CLASSES = 3
RANKINGS = [torch.tensor(ranking) for ranking in permutations(range(CLASSES))]
"""Scores of three classes, in every order: all that a model can say."""


def winner(votes: list[int]) -> int:
    """The plurality, the smaller class on ties, in plain Python."""
    return max(range(CLASSES), key=lambda c: (votes.count(c), -c))


def all_votes(models: int) -> Tensor:
    return torch.tensor(list(product(range(CLASSES), repeat=models)))


def can_change(votes: list[int], reached: set[int]) -> bool:
    """Whether some votes of these models change the outcome, by trying all of them."""
    before = winner(votes)
    for others in product(range(CLASSES), repeat=len(reached)):
        changed = list(votes)
        for model, vote in zip(sorted(reached), others, strict=True):
            changed[model] = vote
        if winner(changed) != before:
            return True
    return False


@pytest.mark.parametrize("models", [1, 2, 3, 4, 5])
def test_the_plurality_certificate_is_right_and_tight_for_every_vote(models: int) -> None:
    votes = all_votes(models)
    found = plurality_certificate(votes, CLASSES)
    for row, label, radius in zip(votes.tolist(), found.labels.tolist(), found.radius.tolist(), strict=True):
        assert label == winner(row)
        assert 0 <= radius < models
        assert not any(can_change(row, set(some)) for some in combinations(range(models), radius))
        assert any(can_change(row, set(some)) for some in combinations(range(models), radius + 1))


def test_the_plurality_certificate_is_the_papers_formula() -> None:
    votes = torch.randint(0, 4, (200, 17), generator=torch.Generator().manual_seed(0))
    found = plurality_certificate(votes, 4)
    for row, label, radius in zip(votes.tolist(), found.labels.tolist(), found.radius.tolist(), strict=True):
        n = [row.count(c) for c in range(4)]
        assert radius == (n[label] - max(n[c] + (c < label) for c in range(4) if c != label)) // 2


SPREADS = {
    "k = 2, d = 2": torch.tensor([[0, 2], [1, 3], [2, 0], [3, 1]]),
    "k = 3, d = 2": torch.tensor([[(h + s) % 6 for s in (1, 3)] for h in range(6)]),
    "k = 2, d = 3": torch.tensor([[(h + s) % 6 for s in (0, 1, 4)] for h in range(6)]),
}


@pytest.mark.parametrize("spread", SPREADS)
def test_the_certificate_of_finite_aggregation_is_right(spread: str) -> None:
    bases = SPREADS[spread]
    buckets = models = len(bases)
    votes = all_votes(models)[:: 1 if models == 4 else 5]
    found = finite_aggregation_certificate(votes, CLASSES, bases)
    assert int(found.radius.max()) >= 1
    for row, label, radius in zip(votes.tolist(), found.labels.tolist(), found.radius.tolist(), strict=True):
        assert label == winner(row)
        for poisoned in combinations(range(buckets), radius):
            reached = {model for bucket in poisoned for model in bases[bucket].tolist()}
            assert not can_change(row, reached)


def test_finite_aggregation_without_spread_is_deep_partition_aggregation() -> None:
    votes = all_votes(5)
    plain = plurality_certificate(votes, CLASSES)
    spread = finite_aggregation_certificate(votes, CLASSES, torch.arange(5)[:, None])
    assert torch.equal(plain.labels, spread.labels)
    assert torch.equal(plain.radius, spread.radius)


def run_off(rankings: list[Tensor]) -> int:
    """The run-off election in plain Python; `rankings` hold the scores of each model."""
    votes = [int(scores.argmax()) for scores in rankings]
    first, second = sorted(range(CLASSES), key=lambda c: (-votes.count(c), c))[:2]
    for_first = sum(bool(scores[first] > scores[second]) for scores in rankings)
    for_second = len(rankings) - for_first
    if for_first == for_second:
        return min(first, second)
    return first if for_first > for_second else second


@pytest.mark.parametrize("bases", [torch.arange(4)[:, None], SPREADS["k = 2, d = 2"]], ids=["d = 1", "d = 2"])
def test_the_run_off_certificate_is_right_for_every_poisoning(bases: Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    elections = torch.randint(0, len(RANKINGS), (60, 4), generator=generator)
    elections[:6] = torch.arange(6)[:, None]  # models of one mind
    scores = torch.stack([torch.stack([RANKINGS[i] for i in row]) for row in elections.tolist()]).float()
    found = run_off_certificate(scores, bases)
    assert int(found.radius.max()) >= 1
    for row, label, radius in zip(elections.tolist(), found.labels.tolist(), found.radius.tolist(), strict=True):
        rankings = [RANKINGS[i] for i in row]
        assert label == run_off(rankings)
        for poisoned in combinations(range(len(bases)), radius):
            reached = sorted({model for bucket in poisoned for model in bases[bucket].tolist()})
            for others in product(RANKINGS, repeat=len(reached)):
                changed = list(rankings)
                for model, ranking in zip(reached, others, strict=True):
                    changed[model] = ranking
                assert run_off(changed) == label


def test_some_run_off_certificates_are_larger_than_those_of_the_plurality_and_none_is_out_of_reach() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, 31, CLASSES, generator=generator) + torch.tensor([0.6, 0.5, 0.0])
    plain, again = (
        plurality_certificate(votes_of(scores), CLASSES),
        run_off_certificate(scores, torch.arange(31)[:, None]),
    )
    alike = plain.labels == again.labels
    assert int((again.radius > plain.radius)[alike].sum()) > 100
    # Turning half of the models and one more elects any class.
    assert int(again.radius.max()) <= 15


def test_the_first_round_of_the_run_off_is_what_the_papers_recursion_gives() -> None:
    def fewest(g1: int, g2: int) -> int:  # each change takes (2, 1) or (1, 2)
        if g1 <= 0 and g2 <= 0:
            return 0
        return 1 + min(fewest(g1 - 2, g2 - 1), fewest(g1 - 1, g2 - 2))

    votes = all_votes(5)
    plain = plurality_certificate(votes, CLASSES)
    counts = vote_counts(votes, CLASSES)
    found = _out_of_the_first_round(votes, counts, plain.labels, torch.arange(5)[:, None])
    distances = (margins(counts, plain.labels) + 1).tolist()
    for row, label, needed in zip(distances, plain.labels.tolist(), found.tolist(), strict=True):
        assert needed == fewest(*(row[c] for c in range(CLASSES) if c != label))


def test_a_model_that_has_diverged_votes_like_any_other() -> None:
    scores = torch.tensor([[[float("nan")] * 2, [float("nan"), 1.0], [2.0, 1.0]]])
    assert votes_of(scores).tolist() == [[0, 1, 0]]
    found = run_off_certificate(scores, torch.arange(3)[:, None])
    assert found.labels.tolist() == [0]
    assert found.radius.tolist() == [0]


def test_certified_accuracy_counts_right_predictions_that_withstand_the_budget() -> None:
    found = CertifiedPrediction(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 5, 9, 2]))
    y = torch.tensor([0, 1, 0, 0])
    assert found.certified_accuracy(y, [0, 1, 2, 3, 6]) == [75.0, 50.0, 50.0, 25.0, 0.0]
    assert found.median_radius(y) == 2
    assert CertifiedPrediction(torch.tensor([1, 1, 0]), torch.tensor([3, 3, 3])).median_radius(torch.zeros(3)) == -1
    with pytest.raises(BatchError, match=r"got \[3\], wanted the true labels \[4\]"):
        found.certified_accuracy(y[:3], [0])


def test_votes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(LabelError, match="got votes from 0 to 3, wanted 0 to 2"):
        plurality_certificate(torch.tensor([[0, 3]]), 3)
    with pytest.raises(BatchError, match="at least one model"):
        plurality_certificate(torch.zeros(4, 0, dtype=torch.int64), 3)
    with pytest.raises(BatchError, match="wanted at least 2"):
        plurality_certificate(torch.zeros(4, 2, dtype=torch.int64), 1)
    votes = torch.zeros(4, 2, dtype=torch.int64)
    for bases in ([[0, 0], [1, 0]], [[0], [0]]):
        with pytest.raises(BatchError, match="feeds a model twice, or a model that none feeds"):
            finite_aggregation_certificate(votes, 3, torch.tensor(bases))
    with pytest.raises(BatchError, match="got models 0 to 2, wanted 0 to 1"):
        finite_aggregation_certificate(votes, 3, torch.tensor([[0], [2]]))
    with pytest.raises(BatchError, match=r"wanted floating point \[n, models, classes\]"):
        run_off_certificate(torch.zeros(4, 2), torch.tensor([[0], [1]]))
