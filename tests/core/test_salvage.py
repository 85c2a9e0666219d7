"""A refused batch is tried again as the salvaging screens leave or correct it, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Batch, CandidateUpdate, Guard, Verdict, reject
from taster.core.guard import ScreenedBatch
from taster.core.step import MAX_SALVAGE_ATTEMPTS
from taster.core.verdict import COMMIT


class Judge:
    """A gate that accepts the n-th attempt alone, and keeps what it saw."""

    def __init__(self, accepted: int | None = None) -> None:
        self.accepted = accepted
        self.seen: list[tuple[int, int, float]] = []

    def __call__(self, change: CandidateUpdate) -> Verdict:
        assert isinstance(change.batch, Batch)
        self.seen.append((change.attempt, len(change.batch), float(change.batch.x.sum())))
        return COMMIT if change.attempt == self.accepted else reject("no")


def halves(least: int) -> Callable[..., Any]:
    def half(screened: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
        n = len(screened.batch)
        return screened.drop(torch.arange(n) >= n // 2, "") if n // 2 >= least else screened

    return half


def darker(screened: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
    batch = screened.batch
    return screened.correct(replace(batch, x=batch.x / 2), torch.ones(len(batch), dtype=torch.bool))


def nothing_changed(screened: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
    return screened.correct(replace(screened.batch), torch.zeros(len(screened.batch), dtype=torch.bool))


def everything_gone(screened: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
    return screened.drop(torch.ones(len(screened.batch), dtype=torch.bool), "all")


def test_screens_are_asked_in_turn_each_for_the_whole_batch() -> None:
    judge, batch = Judge(), tiny_batch(16, seed=1)
    learner = tiny_learner(guard=Guard(gates=[judge], salvage=[halves(4), darker, halves(8)]))
    before = full_state(learner)
    record = learner.step(batch)
    assert [(attempt, size) for attempt, size, _ in judge.seen] == [(0, 16), (1, 8), (2, 4), (3, 16), (4, 8)]
    sums = [float(x.sum()) for x in (batch.x, batch.x[:8], batch.x[:4], batch.x / 2, batch.x[:8])]
    assert [total for _, _, total in judge.seen] == sums
    assert (record.attempts, record.dropped, record.corrected) == (5, 0, 0)
    assert (record.verdict.committed, record.verdict.reason) == (False, "no")
    assert same_state(before, full_state(learner))


def test_a_corrected_batch_is_learned_as_if_it_had_come() -> None:
    batch = tiny_batch(16, seed=1)
    learner, twin = tiny_learner(), tiny_learner()
    learner.guard = Guard(gates=[Judge(accepted=2)], salvage=[halves(8), darker, halves(4)])
    record = learner.step(batch)
    assert record.verdict.committed
    assert (record.attempts, record.dropped, record.corrected) == (3, 0, 16)
    assert record.verdict.reason == "learned 16 of 16 samples, corrected: no"
    assert learner.counters["salvaged"] == 1
    twin.step(replace(batch, x=batch.x / 2))
    assert same_state(full_state(learner), full_state(twin))


def test_a_screen_may_drop_and_correct() -> None:
    def both(screened: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
        smaller = halves(4)(screened, view)
        return screened if smaller is screened else darker(smaller, view)

    judge, batch = Judge(accepted=2), tiny_batch(16, seed=1)
    record = tiny_learner(guard=Guard(gates=[judge], salvage=[both])).step(batch)
    assert judge.seen[2] == (2, 4, float((batch.x[:4] / 4).sum()))
    assert (record.dropped, record.corrected) == (12, 12)
    assert record.verdict.reason == "learned 4 of 16 samples, corrected: no"


@pytest.mark.parametrize("idle", [nothing_changed, everything_gone, halves(100)])
def test_a_screen_with_nothing_to_offer_makes_no_attempt(idle: Any) -> None:
    judge = Judge()
    record = tiny_learner(guard=Guard(gates=[judge], salvage=[idle, darker])).step(tiny_batch(16, seed=1))
    assert record.attempts == len(judge.seen) == 2
    assert judge.seen[1][1] == 16


def test_attempts_are_bounded() -> None:
    def one_less(screened: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
        n = len(screened.batch)
        return screened.drop(torch.arange(n) == 0, "") if n > 1 else screened

    judge = Judge()
    record = tiny_learner(guard=Guard(gates=[judge], salvage=[one_less])).step(tiny_batch(40, seed=1))
    assert record.attempts == len(judge.seen) == 1 + MAX_SALVAGE_ATTEMPTS


def test_an_accepted_batch_is_not_salvaged() -> None:
    judge = Judge(accepted=0)
    record = tiny_learner(guard=Guard(gates=[judge], salvage=[darker])).step(tiny_batch(16, seed=1))
    assert (record.attempts, record.corrected, record.verdict.reason) == (1, 0, "")
